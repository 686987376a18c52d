"""What has left a client, counted by the client itself: epsilon at a delta, in a file of its own directory.

A release counts before it leaves, on disk. So whoever is killed between counting and sending has counted one that
nobody saw, and the round that is redone draws noise anew and counts again: the server's model may go back to an older
one, this file never does.

    whole     every row is in the release: a round's change, or a step that draws each row by a chance
    stretch   every row of a stretch is in one step of it: a stream, or a pass over a shuffled table

Releases of stretches that do not overlap tell of different rows, so together they cost what one costs (parallel
composition). What counts is the row that was in most: of a stream the one that was learnt again most often, of a table
one in every pass that was begun. A stretch keeps its ends and how often it was released: as long as a stream is learnt
once, one line, however long the run.

Source: parallel composition: McSherry 2009, SIGMOD, theorem 4; here the next stretch may depend on earlier releases,
which changes nothing: given those, releases without a row are the same whatever the row is.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fedmb.aggregation.privacy_account import epsilon_of
from fedmb.errors import PrivacyExhausted, SettingsError
from fedmb.telemetry.run_directory import locked, write_atomically
from fedmb.training.released_stretches import Piece, Place, added, from_json, most, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

FILE = "privacy.json"
_FORM = 1
END: Place = (2**63 - 1, 0)
"""Behind every row of a stream."""


@dataclass(frozen=True, slots=True)
class Release:
    """What is to leave, as far as it matters what it tells."""

    noise: float
    """Standard deviation of its noise, in the most that what is hidden can change."""
    rate: float = 1.0
    """Chance with which a row is in it, where nobody outside knows whether it is."""
    count: int = 1
    """How many releases it is made of, where every row may be in each."""
    kind: Literal["whole", "stream", "pass"] = "whole"
    stretches: Mapping[str, tuple[Place, Place]] = field(default_factory=dict)
    """Rows of it, by partition or by pass; none of "whole"."""
    rows: int = 0
    """Of a whole pass."""


class _Told:
    """Everything that was released."""

    def __init__(self) -> None:
        self.whole: dict[tuple[float, float], int] = {}
        self.stretches: dict[tuple[str, float, str], list[Piece]] = {}  # kind, noise, partition or pass
        self.passes: dict[float, int] = {}  # by noise, those that ended

    def add(self, release: Release) -> None:
        if release.kind == "whole":
            key = (release.noise, release.rate)
            self.whole[key] = self.whole.get(key, 0) + release.count
        for name, (start, stop) in release.stretches.items():
            part = (release.kind, release.noise, name)
            pieces = added(self.stretches.get(part, []), start, stop)
            if release.kind == "pass" and len(pieces) == 1 and pieces[0][:2] == ((0,), (release.rows,)):
                self.passes[release.noise] = self.passes.get(release.noise, 0) + pieces[0][2]
                self.stretches.pop(part, None)
            elif pieces:
                self.stretches[part] = pieces

    def epsilon(self, delta: float) -> float:
        times = dict(self.passes)
        streamed: dict[float, int] = {}
        for (kind, noise, _), pieces in self.stretches.items():
            if kind == "pass":
                times[noise] = times.get(noise, 0) + most(pieces)
            else:
                streamed[noise] = max(streamed.get(noise, 0), most(pieces))
        counts = dict(self.whole)
        for noise, count in (*times.items(), *streamed.items()):
            counts[noise, 1.0] = counts.get((noise, 1.0), 0) + count
        return epsilon_of(tuple(sorted((*key, count) for key, count in counts.items() if count)), delta)


class ReleaseAccount:
    """One client's releases.

    Every call reads the file anew, and counting holds a lock on it: the processes that answer a client's messages may
    be several. A file of another client, or one that cannot be read, is refused: a count that begins again would be a
    lie.

    Args:
        directory: the client's own.
        client: its name.
        delta: chance that epsilon does not hold.
        budget: epsilon that no release may pass; inf for none.
    """

    def __init__(self, directory: Path, *, client: str, delta: float, budget: float = math.inf) -> None:
        self.delta = delta
        self.budget = budget
        self._client = client
        self._directory = directory

    @property
    def epsilon(self) -> float:
        """What was told so far; 0 for nothing.

        Raises:
            SettingsError: dp-accounting is not installed, or the file is another client's or damaged.
        """
        return self._read().epsilon(self.delta)

    def check_readable(self) -> None:
        """Demand that releases can be counted.

        Raises:
            SettingsError: as `epsilon`.
        """
        self._read()
        epsilon_of(((1.0, 1.0, 1),), self.delta)

    def check(self, release: Release) -> None:
        """Demand that a release would keep within the budget; nothing is counted.

        Raises:
            PrivacyExhausted: it would not.
            SettingsError: as `epsilon`.
        """
        if math.isfinite(self.budget):
            self._after(release)
        else:
            self._read()

    def count(self, release: Release) -> float:
        """Count a release that is about to leave, on disk; epsilon with it.

        Raises:
            PrivacyExhausted: it would pass the budget; it is not counted, and may not leave.
            SettingsError: as `epsilon`.
            AlreadyOwned: another process counts at this moment.
            OSError: the disk is full or fails.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with locked(self._directory / "privacy.lock", self._directory, kind="a privacy account"):
            told, epsilon = self._after(release)
            write_atomically(self._directory / FILE, json.dumps(self._to_json(told, epsilon), indent=1) + "\n")
        log.info("release counted client=%s epsilon=%.4g delta=%g", self._client, epsilon, self.delta)
        return epsilon

    def _after(self, release: Release) -> tuple[_Told, float]:
        told = self._read()
        then = copy.deepcopy(told)
        then.add(release)
        epsilon = then.epsilon(self.delta)
        if epsilon > self.budget:
            raise PrivacyExhausted(
                f"privacy budget: this round would make epsilon {epsilon:.4g}, over the {self.budget:g} of "
                f"privacy.epsilon, it is {told.epsilon(self.delta):.4g} at delta {self.delta:g}; raise it, raise "
                "privacy.noise_multiplier, or take the client out of the run"
            )
        return then, epsilon

    def _read(self) -> _Told:
        told, file = _Told(), self._directory / FILE
        try:
            found = json.loads(file.read_text())
            _check_owner(found, self._client)
            told.whole = {(float(noise), float(rate)): int(count) for noise, rate, count in found["whole"]}
            told.passes = {float(noise): int(count) for noise, count in found["passes"]}
            told.stretches = {
                (str(one["kind"]), float(one["noise"]), str(one["part"])): from_json(one["pieces"])
                for one in found["stretches"]
            }
        except FileNotFoundError:
            return _Told()
        except (ValueError, TypeError, KeyError) as error:
            raise SettingsError(
                f"the account {file} must be one of client {self._client!r} that can be read, got {error}; bring it "
                "back from a copy, or give the client a state directory of its own",
                key="privacy",
            ) from error
        return told

    def _to_json(self, told: _Told, epsilon: float) -> dict[str, Any]:
        return {
            "form": _FORM,
            "client": self._client,
            "epsilon": epsilon,
            "delta": self.delta,
            "whole": [[*key, count] for key, count in sorted(told.whole.items())],
            "passes": [[noise, count] for noise, count in sorted(told.passes.items())],
            "stretches": [
                {"kind": kind, "noise": noise, "part": part, "pieces": to_json(pieces)}
                for (kind, noise, part), pieces in sorted(told.stretches.items())
            ],
        }


def _check_owner(found: Mapping[str, Any], client: str) -> None:
    if found["form"] != _FORM or found["client"] != client:
        raise ValueError(f"form {found['form']} of client {found['client']!r}")
