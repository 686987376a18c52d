"""What lies in a ring, a table's folder or a snapshot: how full, how old, with which priorities. Nothing is changed."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.replay.ring_layout import MAGIC as RING_MAGIC
from fedmb.replay.ring_layout import described, named
from fedmb.replay.ring_view import RingView
from fedmb.replay.row_commits import MAGIC as COMMITS_MAGIC
from fedmb.replay.row_commits import RowCommits
from fedmb.replay.row_file import MAGIC as ROWS_MAGIC
from fedmb.replay.snapshot import generations, load, newest
from fedmb.replay.stream_ring_file import STREAM_MAGIC
from fedmb.replay.stream_ring_view import StreamRingView
from fedmb.replay.table_figures import age_figures, priority_figures, spread
from fedmb.replay.table_folder import BY_SLOT

if TYPE_CHECKING:
    from pathlib import Path

    from fedmb.batch.minibatch import Schema


def inspected(place: Path) -> dict[str, Any]:
    """Figures of what is there, as JSON values.

    Raises:
        SettingsError: there is nothing of ours.
        AlreadyOwned: a table's folder is in use.
        CorruptRing, CorruptSnapshot: it is damaged.
        VersionMismatch: another fedmb wrote it.
    """
    if place.is_dir() and (place / "commits").is_file():
        return _folder(place)
    if place.is_dir() and generations(place):
        return _snapshot(newest(place) or {}, generations(place)[-1][1])
    if place.is_file():
        with place.open("rb") as file:
            begin = file.read(len(RING_MAGIC))
        if begin == RING_MAGIC:
            return _ring(place)
        if begin == STREAM_MAGIC:
            return _stream_ring(place)
        if place.suffix == ".safetensors":
            return _snapshot(load(place), place)
    raise SettingsError(
        f"there must be a ring, a table's folder or a snapshot to inspect, {place} is none; name a file, a folder, or "
        "the address of a service, HOST:PORT"
    )


def _ring(path: Path) -> dict[str, Any]:
    with RingView.open(path) as ring:
        kept, ledger = ring.state()
        return {
            "kind": "ring",
            "path": str(path),
            "capacity": ring.capacity,
            "rows": len(kept),
            "appended": kept.stop,
            "num_bytes": path.stat().st_size,
            "columns": named({name: column for name, column in ring.schema.items() if type(column) is Column}),
            "ages": age_figures(np.arange(kept.start, kept.stop), kept.stop),
            "priorities": {},
            "ledger": ledger.to_json(),
        }


def _stream_ring(path: Path) -> dict[str, Any]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        columns = json.loads(described(descriptor, path, STREAM_MAGIC))["columns"]
        view = StreamRingView(path, descriptor, _schema(columns))
    finally:
        os.close(descriptor)
    with closing(view):
        commit = view.newest()
        rows = 0 if commit is None else commit.appended - commit.oldest
        appended = 0 if commit is None else commit.appended
        return {
            "kind": "ring of a stream",
            "path": str(path),
            "capacity": view.capacity,
            "rows": rows,
            "appended": appended,
            "num_bytes": path.stat().st_size,
            "columns": columns,
            "ages": age_figures(np.arange(appended - rows, appended), appended),
            "priorities": {},
        }


def _folder(place: Path) -> dict[str, Any]:
    rows = place / "rows"
    about = _description(rows, ROWS_MAGIC)
    by_slot = BY_SLOT if _description(place / "commits", COMMITS_MAGIC)["columns"] else {}
    try:
        commits = RowCommits(place / "commits", by_slot, about["capacity"])
    except AlreadyOwned as error:
        error.add_note("a service that runs can be inspected by its address, HOST:PORT")
        raise
    with closing(commits):
        last = commits.last
        if by_slot:
            numbers = commits.columns["number"][commits.columns["code"] > 0]
        else:
            numbers = np.arange(last.oldest, last.appended)
        numbers = numbers[numbers < last.appended]
        times = commits.columns["times"][commits.columns["code"] > 0].astype(np.float64) if by_slot else np.empty(0)
    found = {
        "kind": "table",
        "path": str(place),
        "capacity": about["capacity"],
        "rows": len(numbers),
        "appended": last.appended,
        "num_bytes": rows.stat().st_size,
        "columns": about["columns"],
        "ages": age_figures(numbers, last.appended),
        "priorities": {},
    }
    if by_slot:
        found["times_sampled"] = spread(times)
    if stored := generations(place):
        state = load(stored[-1][1])
        found["priorities"] = priority_figures(state["sampler"])
        found["snapshot"] = {"path": str(stored[-1][1]), "appended": int(state["ids"]["appended"])}
    return found


def _snapshot(state: dict[str, Any], path: Path) -> dict[str, Any]:
    ids = state["ids"]
    appended = int(ids["appended"])
    in_order = "code" not in ids
    numbers = np.arange(int(ids["oldest"]), appended) if in_order else np.empty(0, np.int64)
    count = len(numbers) if in_order else int((np.asarray(ids["code"]) > 0).sum())
    rows = state["rows"] or {}
    return {
        "kind": "snapshot",
        "path": str(path),
        "capacity": int(state["capacity"]),
        "rows": count,
        "appended": appended,
        "num_bytes": path.stat().st_size,
        "columns": {name: [one.dtype.name, list(one.shape[1:])] for name, one in rows.items()},
        "ages": age_figures(numbers, appended) if in_order else {},
        "priorities": priority_figures(state["sampler"]),
        "limiter": state.get("limiter"),
        **{name: int(count) for name, count in state["counts"].items()},
    }


def _description(path: Path, magic: bytes) -> dict[str, Any]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(
            f"a table's folder must have its files, {path}: {error.strerror}; check the path"
        ) from error
    try:
        found: dict[str, Any] = json.loads(described(descriptor, path, magic))
    finally:
        os.close(descriptor)
    return found


def _schema(columns: dict[str, Any]) -> Schema:
    return {name: Column(dtype, tuple(shape)) for name, (dtype, shape) in columns.items()}
