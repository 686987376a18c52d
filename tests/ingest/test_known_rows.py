"""The end of a log is what the log says, not what a slow or absent broker seems to say."""

import math

import numpy as np
import pytest

from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import NotEnoughData, Unreachable
from fedmb.ingest.known_rows import AWAY_SECONDS, KnownRows
from fedmb.ingest.log import EMPTY_SECONDS
from fedmb.ledger import StreamPartition

PARTITION = StreamPartition("k", "asked", 0)


class Broker:
    """A log source with `held` rows that brings them only once it was waited for `slow_seconds` in all.

    The first `away` questions for its end find nobody there. `marks` offsets behind its rows hold none.
    """

    schema, examples_per_epoch = {}, math.inf

    def __init__(self, held, *, slow_seconds=0.0, away=0, marks=0):
        self.held, self.slow_seconds, self.away, self.marks = held, slow_seconds, away, marks
        self.taken = self.asked = 0
        self.now = self.silence_seconds = 0.0

    def limit_waiting(self, seconds, *, silence_seconds):
        self.silence_seconds = silence_seconds

    def take(self, size):
        if self.taken < self.held and self.slow_seconds <= self.silence_seconds:
            self.now += self.slow_seconds
            self.slow_seconds = 0.0
            first, self.taken = self.taken, min(self.held, self.taken + size)
            return MiniBatch({"row": np.arange(first, self.taken)})
        self.slow_seconds -= self.silence_seconds
        self.now += self.silence_seconds
        raise NotEnoughData("silent")

    def lag(self):
        self.asked += 1
        if self.away:
            self.away -= 1
            raise Unreachable("nobody")
        return {PARTITION: self.held + self.marks - self.taken}

    def position(self):
        return {"ledger": {str(PARTITION): [self.taken, 0]}}


def known(broker, patience_seconds=60.0):
    return KnownRows(broker, patience_seconds=patience_seconds, clock=lambda: broker.now)


def test_rows_that_are_there_are_given_at_once():
    broker = Broker(10)
    source = known(broker)

    assert source.take(7).columns["row"].tolist() == list(range(7))
    assert source.take(7).columns["row"].tolist() == [7, 8, 9]
    assert broker.asked == 0


def test_an_end_that_the_log_confirms_is_not_waited_at():
    broker = Broker(0)

    with pytest.raises(NotEnoughData):
        known(broker).take(1)
    assert (broker.now, broker.asked) == (0.0, 1)


def test_rows_that_the_log_has_and_did_not_bring_yet_are_waited_for():
    broker = Broker(3, slow_seconds=EMPTY_SECONDS / 2)

    assert len(known(broker).take(8)) == 3
    assert broker.asked == 1


def test_a_log_that_does_not_answer_is_no_end():
    broker = Broker(3, slow_seconds=5 * AWAY_SECONDS, away=5)

    assert len(known(broker).take(8)) == 3


def test_rows_behind_a_connection_that_was_lost_amid_the_wait_are_found():
    broker = Broker(3)
    source, given, silences = known(broker), broker.take, []

    def take(size):  # gone while the long wait lasts, and back when the log is asked again
        silences.append(broker.silence_seconds)
        if len(silences) < 3:
            raise NotEnoughData("silent")
        return given(size)

    broker.take = take

    assert len(source.take(8)) == 3
    assert silences == [0.0, EMPTY_SECONDS, 0.0]


@pytest.mark.parametrize(("patience_seconds", "round_seconds"), [(8.0, math.inf), (60.0, 8.0)])
def test_a_log_that_stays_away_is_told_when_patience_or_the_round_ends(patience_seconds, round_seconds):
    broker = Broker(3, slow_seconds=math.inf, away=1000)
    source = known(broker, patience_seconds)
    source.limit_waiting(round_seconds)

    with pytest.raises(Unreachable):
        source.take(8)
    assert 8.0 <= broker.now < 8.0 + 2 * AWAY_SECONDS


def test_offsets_behind_the_last_record_that_hold_none_are_waited_for_once():
    broker = Broker(0, marks=2)
    source = known(broker)
    for _ in range(5):
        with pytest.raises(NotEnoughData):
            source.take(1)

    assert broker.now == EMPTY_SECONDS
    broker.held += 1  # offset and mark alike: the end has moved, and what was found out counts no more
    assert len(source.take(1)) == 1
