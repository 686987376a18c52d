"""Up to where something on this disk has got in its streams: a run, a checkpoint, a ring, a client's directory."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.federation import checkpoint
from fedmb.ledger import Ledger, Position
from fedmb.replay.ring_layout import described
from fedmb.replay.stream_ring_file import STREAM_MAGIC
from fedmb.replay.stream_ring_view import StreamRingView

if TYPE_CHECKING:
    from pathlib import Path

_UNFINISHED = {b"", bytes(len(STREAM_MAGIC))}  # a ring gets its first bytes last


def ledger_at(path: Path) -> Ledger:
    """The ledger of what lies at `path`, which may be in use.

    A run's is that of its newest checkpoint; a ring's tells what was moved into it; a directory's is that of the rings
    in it; a JSON file is a ledger in its own form.

    Raises:
        SettingsError: nothing there has a ledger.
        CorruptRing, CorruptCheckpoint: it is damaged.
        VersionMismatch: another version wrote it.
    """
    if (path / "checkpoints").is_dir():
        found = checkpoint.generations(path / "checkpoints")
        return checkpoint.load_without_arrays(found[-1][1]).ledger if found else Ledger()
    if path.is_dir():
        rings = [one for one in sorted(path.rglob("*.ring")) if _is_stream_ring(one)]
        if rings:
            return Ledger({part: place for ring in rings for part, place in _ring_ledger(ring).items()})
    elif path.suffix == ".safetensors":
        return checkpoint.load_without_arrays(path).ledger
    elif path.is_file():
        return _ring_ledger(path) if _is_stream_ring(path) else _json_ledger(path)
    raise SettingsError(
        f"a ledger is in a run's directory, a checkpoint, a ring, a directory of rings or a JSON file, got {path}; "
        "name one",
        key="ledger",
    )


def _is_stream_ring(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(STREAM_MAGIC)) in {STREAM_MAGIC, *_UNFINISHED}


def _ring_ledger(path: Path) -> Ledger:
    with path.open("rb") as file:
        if file.read(len(STREAM_MAGIC)) in _UNFINISHED:
            return Ledger()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        description = json.loads(described(descriptor, path, STREAM_MAGIC))
    finally:
        os.close(descriptor)
    schema = {name: Column(dtype, tuple(shape)) for name, (dtype, shape) in description["columns"].items()}
    view = StreamRingView.opened(path, schema)
    if view is None:
        return Ledger()
    with closing(view):
        newest = view.newest()
        if newest is None:
            return Ledger()
        places = newest.ledger.tolist()
        return Ledger({part: Position(*place) for part, place in zip(view.partitions, places, strict=True)})


def _json_ledger(path: Path) -> Ledger:
    try:
        content = json.loads(path.read_bytes())
        return Ledger.from_json(content.get("ledger", content))
    except (ValueError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f'a ledger in JSON is written {{"log/topic[0]": [offset, row]}}, got {path} ({error}); name a run, a ring '
            "or a ledger",
            key="ledger",
        ) from error
