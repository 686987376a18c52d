"""One atomic file a generation: the model and everything that says what it has learnt.

A file is a plain safetensors file named `round-000012-<digest>.safetensors`; the digest is the start of the SHA-256 of
its bytes. It is written beside its place, synced, and renamed, so a kill leaves the old generations whole; a file whose
digest does not fit is never loaded. Nothing in it depends on time or place: two runs that learnt the same have
byte-identical files. How long a generation is kept is `[checkpoints]`; its age is that of its file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fedmb.arrays import tensor_bytes
from fedmb.errors import CorruptCheckpoint, VersionMismatch
from fedmb.ledger import Ledger
from fedmb.section import Section
from fedmb.telemetry.run_directory import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fedmb.update import Arrays


log = logging.getLogger(__name__)

FORMAT = 1
_NAME = re.compile(r"round-(\d{6,})-([0-9a-f]{16})\.safetensors")
_LEAST = 2  # generations: one may be torn by the disk, the other was whole a round earlier
_HOUR = 3600.0
_STRATEGY = "fedmb.strategy/"  # in front of the names of arrays that are not the model's


class Checkpoints(Section):
    """Which versions of the model are kept; the newest two always are."""

    keep: int = Field(default=_LEAST, ge=_LEAST)
    """Newest versions that are kept."""
    keep_hours: float = Field(default=0.0, ge=0)
    """Versions that are younger are kept too; inf keeps all."""
    keep_every: int | None = Field(default=None, ge=1)
    """Versions whose number is a multiple of this are kept for good; left out, none is."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """The global model with what it has learnt: everything that the next round depends on."""

    version: int
    """Rounds closed so far; 0 is the initial model."""
    arrays: Arrays
    ledger: Ledger = field(default_factory=Ledger)
    """Up to where each stream partition was learnt."""
    positions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Where each client's source stands, by client name."""
    convergence: Mapping[str, Any] = field(default_factory=dict)
    """Memory of the watch that may end the run early."""
    silence: Mapping[str, Any] = field(default_factory=dict)
    """Clients that had nothing new, and how long they are left out."""
    norms: tuple[float, ...] = ()
    """Median lengths of the last rounds' changes, oldest first; empty where nothing is compared with them."""
    learnt: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Rows that trained this version, by client and origin, since the first round."""
    strategy: Arrays = field(default_factory=dict)
    """What the strategy remembers from round to round, such as a momentum."""
    parameters: tuple[str, ...] = ()
    """Names of the arrays that are trained, sorted, where the server steps them; empty where it need not know."""
    seed: int = 0
    """Seed of the run; every random draw is keyed by it, so there is no other generator state."""


def to_bytes(state: ServerState) -> bytes:
    """The file's bytes; equal states give equal bytes."""
    about = {
        "format": FORMAT,
        "version": state.version,
        "seed": state.seed,
        "ledger": state.ledger.to_json(),
        "positions": {client: state.positions[client] for client in sorted(state.positions)},
        "convergence": state.convergence,
        "silence": state.silence,
        "norms": list(state.norms),
        "learnt": state.learnt,
        # safetensors sorts; strategies that keep lists count on one order of the model's arrays, before and after.
        "names": list(state.arrays),
        **({"parameters": list(state.parameters)} if state.parameters else {}),
    }
    remembered = {_STRATEGY + name: array for name, array in state.strategy.items()}
    return tensor_bytes.to_bytes({**state.arrays, **remembered}, {"fedmb": json.dumps(about, sort_keys=True)})


def from_bytes(data: bytes) -> ServerState:
    """Read `to_bytes` back.

    Raises:
        CorruptCheckpoint: the bytes are not such a file.
        VersionMismatch: another format of fedmb wrote them.
    """
    with _reading():
        return _state(data[8 : 8 + _header_bytes(data)], tensor_bytes.from_bytes(data)[0])


def _header_bytes(data: bytes) -> int:
    """Length of a safetensors file's header, which its first eight bytes tell."""
    return int.from_bytes(data[:8], "little")


def _state(header: bytes, arrays: Arrays) -> ServerState:
    about = json.loads(json.loads(header)["__metadata__"]["fedmb"])
    if about["format"] != FORMAT:
        raise VersionMismatch(
            f"a checkpoint must have format {FORMAT}, got {about['format']}; read it with the fedmb that wrote it"
        )
    return ServerState(
        version=about["version"],
        arrays={name: arrays[name] for name in about.get("names", arrays) if name in arrays},
        strategy={name.removeprefix(_STRATEGY): array for name, array in arrays.items() if name.startswith(_STRATEGY)},
        ledger=Ledger.from_json(about["ledger"]),
        positions=about["positions"],
        convergence=about["convergence"],
        silence=about.get("silence", {}),  # files of the first fedmb 0.1.0 lack this, the next and the names
        norms=tuple(about.get("norms", ())),
        learnt=about.get("learnt", {}),
        parameters=tuple(about.get("parameters", ())),
        seed=about["seed"],
    )


@contextmanager
def _reading() -> Iterator[None]:
    """Turn whatever bytes that are no checkpoint make a parser raise into one error."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"a checkpoint must be a fedmb safetensors file, got: {error}") from error


def save(directory: Path, state: ServerState, keeping: Checkpoints | None = None) -> Path:
    """Write a generation durably, then drop those that need not be kept: all but the newest two if nothing is said.

    Raises:
        OSError: the disk is full or fails; earlier generations stay whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = to_bytes(state)
    path = directory / f"round-{state.version:06d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    write_atomically(path, data)
    for old in _superfluous(generations(directory), keeping or Checkpoints()):
        old.unlink(missing_ok=True)
    return path


def _superfluous(found: list[tuple[int, Path]], keeping: Checkpoints) -> Iterator[Path]:
    """Generations that no rule of `keeping` holds."""
    oldest_kept = time.time() - keeping.keep_hours * _HOUR
    for version, path in found[: -keeping.keep]:
        is_milestone = keeping.keep_every is not None and version % keeping.keep_every == 0
        if not is_milestone and path.stat().st_mtime < oldest_kept:
            yield path


def generations(directory: Path) -> list[tuple[int, Path]]:
    """Version and path of each checkpoint in `directory`, oldest first."""
    found = [(match, path) for path in directory.glob("round-*") if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def load(path: Path) -> ServerState:
    """Read one checkpoint file.

    Raises:
        CorruptCheckpoint: its bytes do not have the digest in its name, or are no checkpoint.
        VersionMismatch: another format of fedmb wrote it.
    """
    data = path.read_bytes()
    match = _NAME.fullmatch(path.name)
    digest = hashlib.sha256(data).hexdigest()[:16]
    if match and match[2] != digest:
        raise CorruptCheckpoint(
            f"a checkpoint's bytes must have the digest in its name, {path} has {digest}; use an older generation"
        )
    return from_bytes(data)


def load_without_arrays(path: Path) -> ServerState:
    """Everything in a checkpoint file but the model, read from its first bytes; the digest is not checked.

    Raises:
        CorruptCheckpoint: they are not those of a checkpoint.
        VersionMismatch: another format of fedmb wrote it.
    """
    with path.open("rb") as file, _reading():
        length = _header_bytes(file.read(8))
        if not 0 < length <= path.stat().st_size:
            raise CorruptCheckpoint(f"a checkpoint must begin with its header, {path} does not; use another generation")
        return _state(file.read(length), {})


def newest(directory: Path) -> ServerState | None:
    """The newest whole checkpoint in `directory`; None when there is none.

    Raises:
        CorruptCheckpoint: checkpoints exist, and not one is whole.
    """
    found = generations(directory)
    for version, path in reversed(found):
        try:
            return load(path)
        except CorruptCheckpoint as error:
            log.warning("checkpoint set aside version=%d path=%s reason=%s", version, path, error)
    if found:
        raise CorruptCheckpoint(
            f"one whole checkpoint is needed to resume, all {len(found)} in {directory} are damaged"
        )
    return None
