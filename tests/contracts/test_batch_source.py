"""What every `BatchSource` promises, checked for each of them.

To put a source under this contract, add a builder to `WORLDS`: it gets an empty folder, puts there what the source
reads, and answers a function that opens the source as a new process would. The source before is closed by then.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from joined_sources import joined, scored
from memory_worlds import blended
from ring_sources import blended_ring, stream_ring
from row_sources import (
    buckets,
    curriculum,
    dataset,
    graph,
    mapped_table,
    node_table,
    padded_dataset,
    padded_table,
)
from table_sources import replay_buffer, replay_table

from fedmb.batch.minibatch import MiniBatch, check_columns
from fedmb.batch.mixture import Mixture
from fedmb.batch.prefetch import Prefetch
from fedmb.batch.source import BatchSource
from fedmb.batch.table import TableSource
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.replay.blend import Blend
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay, capacity_for

if TYPE_CHECKING:
    from pathlib import Path

Opener = Callable[[], BatchSource]
SIZES = [5, 3, 8, 1, 4]
NUM_TAKES = 12


def table(folder: Path, tail: str = "balance") -> Opener:
    numbers = np.arange(23)
    columns = {"x": np.sqrt(numbers)[:, None] + np.arange(3), "y": (numbers % 5).astype(np.uint8)}
    return functools.partial(TableSource, columns, seed=11, client="site", tail=tail)


def blend(folder: Path, share: float = 0.5) -> Opener:
    def open_blend() -> BatchSource:
        fresh = table(folder)()
        ring = Ring.mapped(folder / "ring", fresh.schema, capacity_for(64))
        return Blend(fresh, UniformReplay(ring, 64, seed=11, client="site"), share)

    return open_blend


def stream(folder: Path, partitions: int = 1) -> Opener:
    rows = table(folder)()
    codec = PackedCodec(rows.schema)
    log = FileLog.open(folder / "log", id="site", fsync=FsyncPolicy.never(), create=True)
    for partition in range(partitions):
        writer = log.writer("rows", partition)
        for count in (4, 1, 7, 2, 9, 3, 5, 6, 8, 8) * 4:
            writer.append(codec.encode(rows.take(count).columns), codec_headers(codec))
        writer.close()
    return lambda: LogSource(log.reader("rows", range(partitions)), [codec], patience_seconds=1.0)


def blended_stream(folder: Path) -> Opener:
    open_stream = stream(folder)

    def open_blend() -> BatchSource:
        fresh = open_stream()
        ring = Ring.mapped(folder / "ring", fresh.schema, capacity_for(64))
        return Blend(fresh, UniformReplay(ring, 64, seed=11, client="site"), 0.4)

    return open_blend


def mixture(folder: Path, temperature: float = 2.0) -> Opener:
    def open_mixture() -> BatchSource:
        sources = {name: table(folder, tail)() for name, tail in {"a": "balance", "b": "keep", "c": "drop"}.items()}
        return Mixture(sources, temperature, task_column="task", seed=11, client="site", weights={"c": 5})

    return open_mixture


def mixture_of_streams(folder: Path) -> Opener:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    open_a, open_b = blend(folder / "a"), stream(folder / "b")
    return lambda: Mixture({"a": open_a(), "b": open_b()}, weights={"a": 1, "b": 2}, seed=11, client="site")


def prefetched(world: Callable[[Path], Opener], depth: int) -> Callable[[Path], Opener]:
    def open_world(folder: Path) -> Opener:
        opener = world(folder)
        return lambda: Prefetch(opener(), depth)

    return open_world


WORLDS: dict[str, Callable[[Path], Opener]] = {
    "table": table,
    "table, tails kept": functools.partial(table, tail="keep"),
    "table, tails dropped": functools.partial(table, tail="drop"),
    "blend": blend,
    "blend of a ninth": functools.partial(blend, share=1 / 9),
    "stream": stream,
    "stream of three partitions": functools.partial(stream, partitions=3),
    "ring": stream_ring,
    "ring of three partitions": functools.partial(stream_ring, partitions=3),
    "ring with replay": blended_ring,
    "stream with replay": blended_stream,
    "stream with a reservoir": blended("reservoir"),
    "stream with balanced classes": blended("balanced"),
    "stream drawn again by loss": blended("prioritized"),
    "questions and late answers": joined,
    "questions and late answers, predictions scored": scored,
    "blend without replay": functools.partial(blend, share=0.0),
    "mapped table": mapped_table,
    "dataset": dataset,
    "dataset, tails dropped": functools.partial(dataset, tail="drop"),
    "padded dataset": padded_dataset,
    "buckets": buckets,
    "buckets under a token budget": functools.partial(buckets, max_tokens=24),
    "curriculum": curriculum,
    "curriculum, tails dropped": functools.partial(curriculum, tail="drop"),
    "graph": graph,
    "buckets of a padded table": padded_table,
    "graph of a table of nodes": node_table,
    "mixture": mixture,
    "even mixture": functools.partial(mixture, temperature=math.inf),
    "mixture of blend and stream": mixture_of_streams,
    "replay table": replay_table,
    "replay table with ids": functools.partial(replay_table, id_column="id"),
    "replay buffer": replay_buffer,
    "replay table ahead": prefetched(replay_table, 2),
    "table ahead by one": prefetched(table, 1),
    "table ahead by four": prefetched(table, 4),
    "buckets ahead": prefetched(buckets, 2),
    "stream ahead": prefetched(stream, 2),
    "questions and late answers ahead": prefetched(joined, 2),
    "stream with replay ahead": prefetched(blended_stream, 2),
}


@pytest.fixture(params=WORLDS)
def opened(request, tmp_path):
    """Opens the source, closing the one opened before."""
    opener, sources = WORLDS[request.param](tmp_path), []

    def reopen() -> BatchSource:
        for source in sources:
            source.close()
        sources[:] = [opener()]
        return sources[0]

    yield reopen
    for source in sources:
        source.close()


def taken(source: BatchSource, start: int = 0) -> list[MiniBatch]:
    return [source.take(SIZES[step % len(SIZES)]) for step in range(start, NUM_TAKES)]


def assert_same(ones: list[MiniBatch], others: list[MiniBatch]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.columns.keys() == other.columns.keys()
        assert all(one.columns[name].tobytes() == other.columns[name].tobytes() for name in one.columns)
        assert one.effective_units().tobytes() == other.effective_units().tobytes()
        assert (one.span, one.origins) == (other.span, other.origins)


def test_it_has_every_part_of_the_protocol(opened):
    assert isinstance(opened(), BatchSource)


def test_batches_follow_the_schema_and_hold_one_row_to_as_many_as_asked(opened):
    source = opened()

    for step, batch in enumerate(taken(source)):
        assert check_columns(batch.columns, source.schema) == len(batch)
        assert 1 <= len(batch) <= SIZES[step % len(SIZES)]
        assert sum(batch.origins.values()) == len(batch)


def test_an_epoch_has_a_row_or_no_end(opened):
    rows = opened().examples_per_epoch

    assert rows >= 1
    assert rows == math.inf or rows == int(rows)


def test_a_position_survives_json_and_asking_for_it_changes_nothing(opened):
    source = opened()
    for size in SIZES:
        position = source.position()
        assert json.loads(json.dumps(position)) == position
        assert source.position() == position
        source.take(size)


def test_a_position_is_a_snapshot(opened):
    source = opened()
    position = source.position()
    written = json.dumps(position)

    source.take(3)

    assert json.dumps(position) == written


def test_stopping_anywhere_and_seeking_in_a_new_object_goes_on_bitwise(opened):
    source, positions, batches = opened(), [], []
    for step in range(NUM_TAKES):
        positions.append(json.loads(json.dumps(source.position())))
        batches.append(source.take(SIZES[step % len(SIZES)]))
    end = source.position()

    for stop in reversed(range(NUM_TAKES)):
        resumed = opened()
        resumed.seek(positions[stop])
        assert resumed.position() == positions[stop]
        assert_same(taken(resumed, stop), batches[stop:])
        assert resumed.position() == end


def test_seeking_to_the_empty_position_is_a_new_source(opened):
    source = opened()
    beginning = source.position()
    first = taken(source)

    source.seek({})

    assert source.position() == beginning
    assert_same(taken(source), first)


def test_seeking_back_in_the_same_object_repeats_the_rows(opened):
    source = opened()
    source.take(7)
    middle = source.position()
    first = taken(source)

    source.seek(middle)

    assert_same(taken(source), first)


def test_a_position_of_nothing_known_is_refused(opened):
    source = opened()
    source.take(4)
    before = source.position()

    with pytest.raises(ValueError, match="position"):
        source.seek({"no such key": 1})
    assert source.position() == before


def test_a_size_below_one_is_refused(opened):
    with pytest.raises(ValueError, match=r"1 (row )?or more"):
        opened().take(0)


def test_batches_belong_to_their_taker(opened):
    source = opened()
    beginning = taken(source)
    source.seek({})
    for batch in taken(source):
        for column in batch.columns.values():
            column[:] = 0

    source.seek({})

    assert_same(taken(source), beginning)


def test_closing_twice_is_fine(opened):
    source = opened()
    source.take(2)

    source.close()
    source.close()
