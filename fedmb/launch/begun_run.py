"""Which run a server works on: a new one, or one that goes on."""

from __future__ import annotations

import math
import time
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedmb.errors import SettingsError
from fedmb.federation.deployed_server import ServerSettings
from fedmb.settings import load, to_toml
from fedmb.telemetry.run_directory import RunDirectory, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmb.aggregation.rule_choice import Aggregation

RUNS = Path("runs")  # where runs go that are given no place
LATEST = "latest"
COUNT, WATCHING, BUDGET = "rounds.count", "watching", "aggregation.privacy.epsilon"  # what may be told anew


class Asked(NamedTuple):
    """What a command line says about a run; None for what it does not."""

    config: Path | None
    overrides: Sequence[str]
    explicit: Mapping[str, object]
    place: Path | None

    @property
    def rounds(self) -> object:
        """The number of rounds."""
        return self.explicit.get(COUNT)

    @property
    def budget(self) -> list[str]:
        """Overrides of the privacy budget."""
        return of_budget(self.overrides)

    def flags(self) -> list[str]:
        """Options that say what a run is; neither the number of rounds nor the privacy budget is one of them."""
        given = {
            "--config": self.config,
            "--set": [one for one in self.overrides if one not in self.budget] or None,
            "--seed": self.explicit.get("seed"),
            "--min-clients": self.explicit.get("rounds.min_clients"),
            "--run-dir": self.place,
        }
        return [flag for flag, value in given.items() if value is not None]


def begun_or_resumed(
    asked: Asked, resume: Path | None, watching: Mapping[str, object]
) -> tuple[ServerSettings, RunDirectory]:
    """Settings and directory of the run.

    Args:
        asked: what the command line says of it.
        resume: directory of a run that goes on, or `latest`: the one under `runs/` that began last. Where there is
            none, it begins one, so that a service may be started by the same words every time.
        watching: where this process may be watched, by dotted key; no part of the run.

    Raises:
        SettingsError: settings break a rule, or are not those of the run that goes on.
        AlreadyOwned: another process works on it.
    """
    if resume is None:
        return _begun(asked, watching)
    if str(resume) != LATEST:
        if changed := asked.flags():
            raise SettingsError(
                f"a resumed run keeps its settings, got {', '.join(changed)}; leave them out, or start a new run"
            )
        return _resumed(resume, asked, watching)
    if asked.place is not None:
        raise SettingsError(
            f"--resume {LATEST} looks under {RUNS}/, got --run-dir {asked.place}; write --resume {asked.place}"
        )
    newest = latest(RUNS)
    if newest is None:
        return _begun(asked, watching)
    _check_same(newest, asked)
    return _resumed(newest, asked, watching)


def of_budget(overrides: Sequence[str]) -> list[str]:
    """Those of `--set` that say a privacy budget."""
    return [one for one in overrides if one.partition("=")[0].strip() == BUDGET]


def check_budget(before: Aggregation, now: Aggregation) -> None:
    """Refuse a smaller privacy budget: what a run has told is told.

    Raises:
        SettingsError: it is smaller than the one before.
    """
    if now.privacy.epsilon < before.privacy.epsilon:
        raise SettingsError(
            f"a resumed run may have a larger privacy budget than its epsilon {before.privacy.epsilon:g}, not a "
            f"smaller one, got {now.privacy.epsilon:g}; leave it out",
            key=BUDGET,
        )


def latest(runs: Path) -> Path | None:
    """The run under `runs` that began last; None where there is none."""
    # env.json is written once, when a run begins; config.toml again where it is given more rounds.
    begun = [(marks[0].stat().st_mtime_ns, marks[0].parent) for one in runs.glob("*/") if (marks := _marks(one))]
    return max(begun)[1] if begun else None


def _marks(run: Path) -> list[Path]:
    if not (run / "config.toml").is_file():
        return []
    return [file for name in ("env.json", "config.toml") if (file := run / name).is_file()]


def _begun(asked: Asked, watching: Mapping[str, object]) -> tuple[ServerSettings, RunDirectory]:
    settings = _asked_settings(asked, watching)
    path = asked.place or RUNS / time.strftime("%Y-%m-%dT%H-%M-%S")
    return settings, RunDirectory.create(path, config=to_toml(settings), seed=settings.seed)


def _asked_settings(asked: Asked, watching: Mapping[str, object]) -> ServerSettings:
    explicit = {**asked.explicit, **watching}
    return load(ServerSettings, file=asked.config, overrides=asked.overrides, environ=environ, explicit=explicit)


def _check_same(run: Path, asked: Asked) -> None:
    """What is said beside `--resume latest` is for the run that it begins where there is none; it changes no other."""
    if not asked.flags():
        return
    own, said = load(ServerSettings, file=run / "config.toml").model_dump(), _asked_settings(asked, {}).model_dump()
    for settings in (own, said):
        settings.pop(WATCHING)
        settings["rounds"].pop("count")
        if asked.budget:
            settings["aggregation"]["privacy"].pop("epsilon")
    if own != said:
        keys = [name for name in own if own[name] != said[name]]
        raise SettingsError(
            f"a resumed run keeps its settings, {run} has others in {', '.join(keys)}; leave out "
            f"{', '.join(asked.flags())}, or start a new run without --resume"
        )


def _resumed(place: Path, asked: Asked, watching: Mapping[str, object]) -> tuple[ServerSettings, RunDirectory]:
    """Settings and directory of a run that goes on, with another last round or privacy budget where it is asked for.

    A later last round changes no earlier one, one that never ends may be given an end, and a larger budget allows more
    rounds; anything else would make it another run.
    """
    run = RunDirectory.existing(place)
    settings = load(ServerSettings, file=run.config, explicit=watching)
    if asked.rounds is None and not asked.budget:
        return settings, run
    try:
        now = load(ServerSettings, file=run.config, overrides=asked.budget, explicit={COUNT: asked.rounds})
        _check_more(settings, now)
    except SettingsError:
        run.close()
        raise
    write_atomically(run.config, to_toml(now))
    return load(ServerSettings, file=run.config, explicit=watching), run


def _check_more(before: ServerSettings, now: ServerSettings) -> None:
    check_budget(before.aggregation, now.aggregation)
    if now.rounds.last < before.rounds.last < math.inf:
        raise SettingsError(
            f"a resumed run may have more rounds than its {before.rounds.count}, not fewer, got {now.rounds.count}; "
            "leave --rounds out",
            key=COUNT,
        )
