"""A blend holds its share, remembers what was fresh, and resumes bitwise although its ring ran ahead."""

from __future__ import annotations

import numpy as np
import pytest

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.batch.source import BatchSource
from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.ledger import Position, Span, StreamPartition
from fedmb.replay.blend import Blend
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay, capacity_for

SCHEMA = {"row": Column("int64")}
METER = StreamPartition("log", "meter", 0)
WINDOW = 40


class Stream:
    """A source of the numbers from 0 that gives at most `patience` rows at a time, masking every `hidden`-th."""

    schema = SCHEMA
    examples_per_epoch = float("inf")

    def __init__(self, patience: int = 1000, hidden: int = 0) -> None:
        self.patience, self.hidden, self.next = patience, hidden, 0

    def take(self, size: int) -> MiniBatch:
        if self.patience == 0:
            raise NotEnoughData("silent")
        first, self.next = self.next, self.next + min(size, self.patience)
        rows = np.arange(first, self.next)
        mask = rows % self.hidden > 0 if self.hidden else None
        span = {METER: Span(Position(first), Position(self.next))}
        return MiniBatch({"row": rows}, mask=mask, span=span, origins={"stream": len(rows)})

    def position(self) -> dict[str, int]:
        return {"next": self.next}

    def seek(self, position) -> None:
        self.next = position.get("next", 0)

    def close(self) -> None:
        self.patience = 0


def memory(ring: Ring | None = None) -> UniformReplay:
    return UniformReplay(ring or Ring.in_memory(SCHEMA, capacity_for(WINDOW)), WINDOW, seed=5, client=1)


def test_it_is_a_batch_source():
    assert isinstance(Blend(Stream(), memory(), 0.5), BatchSource)


@pytest.mark.parametrize(("share", "replayed"), [(0.0, 0), (0.25, 2), (0.5, 4), (0.9, 7), (0.99, 7)])
def test_the_share_holds_once_enough_is_remembered(share, replayed):
    blend = Blend(Stream(), memory(), share)
    for _ in range(20):
        blend.take(8)

    batch = blend.take(8)

    assert batch.origins.get("replay", 0) == replayed
    assert batch.origins["stream"] == 8 - replayed


def test_fresh_rows_fill_the_batch_while_little_is_remembered():
    blend = Blend(Stream(), memory(), 0.75)

    batches = [blend.take(4).origins for _ in range(2)]
    small = Blend(Stream(), memory(), 0.75)
    small.take(1)

    assert batches == [{"stream": 4}, {"stream": 1, "replay": 3}]
    assert small.take(8).origins == {"stream": 7, "replay": 1}


def test_a_stream_that_lingers_gets_a_smaller_batch_of_the_same_share():
    stream = Stream()
    blend = Blend(stream, memory(), 0.5)
    blend.take(32)
    stream.patience = 4

    assert blend.take(32).origins == {"stream": 4, "replay": 4}


def test_a_batch_of_one_is_fresh():
    blend = Blend(Stream(), memory(), 0.9)
    blend.take(16)

    assert blend.take(1).origins == {"stream": 1}


def test_fresh_rows_come_first_and_keep_their_span():
    blend = Blend(Stream(), memory(), 0.5)
    blend.take(8)

    batch = blend.take(8)

    assert batch.columns["row"][:4].tolist() == [8, 9, 10, 11]
    assert batch.span == {METER: Span(Position(8), Position(12))}


def test_replayed_rows_were_remembered_before_this_batch():
    blend = Blend(Stream(), memory(), 0.5)
    for _ in range(30):
        batch = blend.take(8)
        fresh, replayed = np.split(batch.columns["row"], [batch.origins["stream"]])
        assert (replayed < fresh.min()).all()
        assert (replayed >= fresh.min() - WINDOW).all()


def test_every_draw_has_its_own_number():
    blend = Blend(Stream(), memory(), 0.5)

    replayed = sum("replay" in blend.take(8).origins for _ in range(10))

    assert blend.position()["draws"] == replayed == 9


def test_masked_rows_are_not_remembered():
    blend = Blend(Stream(hidden=3), memory(), 0.5)

    batches = [blend.take(8) for _ in range(20)]

    replayed = np.concatenate([batch.columns["row"][batch.origins["stream"] :] for batch in batches])
    assert len(replayed)
    assert (replayed % 3).all()
    assert batches[-1].effective_units().tolist() == [float(row % 3 > 0) for row in batches[-1].columns["row"]]


def test_share_zero_leaves_the_ring_unwritten():
    remembered = memory()
    blend = Blend(Stream(), remembered, 0)
    for _ in range(3):
        blend.take(8)

    assert remembered.appended == 0
    assert blend.position() == {"fresh": {"next": 24}, "appended": 0, "draws": 0}


def test_a_silent_stream_changes_nothing():
    stream = Stream()
    blend = Blend(stream, memory(), 0.5)
    blend.take(8)
    before = blend.position()
    stream.patience = 0

    with pytest.raises(NotEnoughData):
        blend.take(8)
    assert blend.position() == before


def test_a_ring_that_ran_ahead_of_the_checkpoint_does_not_change_the_draws(tmp_path):
    def opened(name: str) -> Blend:
        return Blend(Stream(), memory(Ring.mapped(tmp_path / name, SCHEMA, capacity_for(WINDOW))), 0.5)

    uninterrupted, crashed = opened("one"), opened("two")
    for _ in range(20):
        uninterrupted.take(8)
        crashed.take(8)
    checkpoint = crashed.position()
    for _ in range(9):
        crashed.take(8)  # at most a window of rows that no checkpoint knows
    crashed.close()

    resumed = opened("two")
    resumed.seek(checkpoint)

    for _ in range(30):
        assert np.array_equal(resumed.take(8).columns["row"], uninterrupted.take(8).columns["row"])
    assert resumed.position() == uninterrupted.position()


def test_a_new_ring_in_memory_resumes_with_fresh_rows_and_says_so(caplog):
    blend = Blend(Stream(), memory(), 0.5)
    for _ in range(20):
        blend.take(8)

    resumed = Blend(Stream(), memory(), 0.5)
    resumed.seek(blend.position())

    assert resumed.position() == blend.position()
    assert resumed.take(8).origins == {"stream": 8}
    assert "missing=40" in caplog.text


@pytest.mark.parametrize(
    "position",
    [
        {"epoch": 0, "cursor": 0},
        {"fresh": {}, "appended": -1, "draws": 0},
        {"fresh": {}, "appended": 0, "draws": 0.5},
        {"fresh": 7, "appended": 0, "draws": 0},
    ],
)
def test_a_foreign_position_is_refused_and_changes_nothing(position):
    blend = Blend(TableSource({"row": np.arange(9)}, seed=0, client=0), memory(), 0.5)
    blend.take(4)
    before = blend.position()

    with pytest.raises(ValueError, match="a blend's position must be"):
        blend.seek(position)
    assert blend.position() == before


def test_impossible_blends_are_refused():
    for share in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(SettingsError, match="share must be 0 to below 1"):
            Blend(Stream(), memory(), share)
    with pytest.raises(ShapeError, match="make the ring with the source's schema"):
        Blend(TableSource({"x": np.zeros(3)}, seed=0, client=0), memory(), 0.5)
    with pytest.raises(ValueError, match="size must be 1 or more"):
        Blend(Stream(), memory(), 0.5).take(0)
