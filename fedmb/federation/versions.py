"""Versions of the model that a run keeps, and how one leaves it: weights for others, and what trained them.

Reading takes no lock: a run may go on meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmb import __version__
from fedmb.arrays.tensor_bytes import to_bytes
from fedmb.errors import CorruptCheckpoint, SettingsError
from fedmb.federation import checkpoint
from fedmb.federation.trained_by import trained_by
from fedmb.telemetry.run_directory import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedmb.federation.checkpoint import ServerState

FORMAT = 1
RECORD = "trained-by.json"


@dataclass(frozen=True, slots=True)
class Version:
    """One version on disk."""

    number: int
    path: Path
    written: float
    """Seconds since the epoch."""
    bytes: int
    state: ServerState | None
    """Everything but the model; None where the file is damaged."""


def kept(run: Path) -> list[Version]:
    """The versions that a run keeps, oldest first.

    Raises:
        SettingsError: there is no run, or it has no version yet.
    """
    found = []
    for number, path in checkpoint.generations(run / "checkpoints"):
        try:
            status = path.stat()
            found.append(Version(number, path, status.st_mtime, status.st_size, checkpoint.load_without_arrays(path)))
        except CorruptCheckpoint:
            found.append(Version(number, path, status.st_mtime, status.st_size, None))
        except FileNotFoundError:  # dropped by the run since it was listed
            continue
    if not found:
        raise SettingsError(f"a run has a version once its first round has closed, {run} has none; name a run's folder")
    return found


def described(
    run: Path, number: int | None = None, *, since: int | None = None, dead_letters: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """What trained a version, with where it comes from; see `fedmb.federation.trained_by`.

    Args:
        run: the run's directory.
        number: the version; the newest if left out.
        since: tell only what came after this version; the beginning if left out.
        dead_letters: where set-aside records lie, beside the run's own state; see `fedmb.federation.set_aside`.

    Raises:
        SettingsError: a version is not kept, `since` is not earlier, or there are no dead letters at a place.
        CorruptCheckpoint: the file is damaged.
        FedmbError: as `SetAside`.
    """
    version = _version(run, number)
    state = checkpoint.load(version.path)  # with its model, whose digest vouches for the rest
    earlier = checkpoint.load(_version(run, since).path) if since else None
    own = {path.parent.name: [path] for path in sorted((run / "state").glob("*/dead-letters"))}
    return {
        "format": FORMAT,
        "run": str(run.resolve()),
        "version": state.version,
        "since": earlier.version if earlier else 0,
        "seed": state.seed,
        "fedmb": _trained_with(run),
        "checkpoint": version.path.name,
        "checkpoint_sha256": hashlib.sha256(version.path.read_bytes()).hexdigest(),
        **trained_by(state, earlier, dead_letters={**own, "": list(dead_letters)}),
    }


def export(
    run: Path, number: int | None, to: Path, *, since: int | None = None, dead_letters: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Write a version's weights as plain safetensors, and `trained-by.json` beside them; answers its content.

    The names in the file are those of the task's `state_dict`. What is there already is replaced.

    Raises:
        SettingsError: as `described`, or the folder holds the record of another model.
        CorruptCheckpoint: the version is damaged; nothing is written.
    """
    record = to.with_name(RECORD)
    if record.exists() and (other := json.loads(record.read_text()).get("model")) != to.name:
        raise SettingsError(
            f"a folder holds one exported model with its {RECORD}, {to.parent} holds that of {other}; choose another "
            "folder",
            key="to",
        )
    state = checkpoint.load(_version(run, number).path)
    about = described(run, state.version, since=since, dead_letters=dead_letters)
    weights = to_bytes(state.arrays, {"format": "pt"})  # transformers refuses files that do not say so
    digest = hashlib.sha256(weights).hexdigest()
    about = {"format": about.pop("format"), "model": to.name, "model_sha256": digest, **about}
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(to, weights)
    write_atomically(record, json.dumps(about, indent=2) + "\n")
    return about


def shown(about: dict[str, Any]) -> str:
    """What `described` answered, for people."""
    since = f" since version {about['since']}" if about["since"] else ""
    lines = [
        f"version     {about['version']} of {about['run']}, seed {about['seed']}, fedmb {about['fedmb']}",
        f"checkpoint  {about['checkpoint']}, SHA-256 {about['checkpoint_sha256']}",
        f"rows        {_counts(about['rows']['total'])}{since}",
    ]
    lines += [f"            {client}: {_counts(rows)}" for client, rows in about["rows"]["by_client"].items()]
    for one in about["streams"]:
        letters = one["set_aside"]
        aside = "set aside: not known here" if letters is None else f"{len(letters)} set aside"
        place = f"{_place(one['from'])} to {_place(one['to'])}"
        count = f"{one['offsets']:,} offset{'s' if one['offsets'] != 1 else ''}"
        of = f" of {one['client']}" if one["client"] else ""
        lines.append(f"stream      {one['partition']} {place}: {count}{of}, {aside}")
        lines += [f"            set aside at {letter['offset']}: {letter['error']}" for letter in letters or ()]
    for one in about["tables"]:
        name = f" {one['table']}" if one["table"] else ""
        passes = ", ".join(f"{key} {value}" for key, value in sorted(one["to"].items()))
        before = ", ".join(f"{key} {value}" for key, value in sorted(one["from"].items()))
        lines.append(f"table       {one['client']}{name}: up to {passes}" + (f", from {before}" if before else ""))
    return "\n".join(lines)


def listed(versions: Sequence[Version]) -> str:
    """A table of versions, for people."""
    lines = [f"{'version':>9}  {'written':<19}  {'bytes':>13}  ledger"]
    for one in versions:
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.written))
        ledger = (
            "damaged"
            if one.state is None
            else ", ".join(f"{partition} @ {here.offset}" for partition, here in one.state.ledger.items()) or "-"
        )
        lines.append(f"{one.number:>9}  {written:<19}  {one.bytes:>13,}  {ledger}")
    return "\n".join(lines)


def _version(run: Path, number: int | None) -> Version:
    versions = kept(run)
    for one in reversed(versions):
        if number in {None, one.number}:
            return one
    raise SettingsError(
        f"a version must be one that the run keeps, {', '.join(str(one.number) for one in versions)}, got {number}; "
        "the run's [checkpoints] say which are kept",
        key="version",
    )


def _trained_with(run: Path) -> str:
    """Version of fedmb that the run was started with."""
    environment = run / "env.json"
    if not environment.exists():
        return __version__
    return str(json.loads(environment.read_text())["packages"].get("fedmb", __version__))


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {origin}" for origin, count in rows.items()) or "none"


def _place(position: Sequence[int]) -> str:
    offset, row = position
    return f"{offset}+{row}" if row else str(offset)
