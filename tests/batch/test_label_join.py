"""Rows are learnt when their answer is there, each once, wherever the join was stopped."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.label_join import LabelJoin
from fedmb.batch.minibatch import MiniBatch, schema_of
from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.ledger import Ledger, Position, Span, StreamPartition


class Rows:
    """A stream of given rows in their order, that falls silent at its end or at row `ends`, or breaks there."""

    examples_per_epoch = math.inf

    def __init__(self, topic, columns, *, error=NotEnoughData, **beside):
        self.columns = {name: np.asarray(column) for name, column in columns.items()}
        self.schema = schema_of(self.columns)
        self.partition = StreamPartition("log", topic, 0)
        self.next, self.ends, self.error, self.beside = 0, len(self.columns["key"]), error, beside

    def take(self, size):
        first, stop = self.next, min(self.next + size, self.ends)
        if first == stop:
            raise self.error("no more")
        self.next = stop
        span = {self.partition: Span(Position(first), Position(stop))}
        beside = {name: np.asarray(values)[first:stop] for name, values in self.beside.items()}
        columns = {name: column[first:stop] for name, column in self.columns.items()}
        return MiniBatch(columns, span=span, origins={"stream": stop - first}, **beside)

    def position(self):
        return {"next": self.next}

    def seek(self, position):
        self.next = position.get("next", 0)

    def close(self):
        self.ends = 0


def join(asked, answered, horizon=1000, **others):
    """Questions under `asked` whose x is their number, answers under `answered` whose y is theirs."""
    questions = Rows("q", {"key": asked, "x": np.arange(len(asked))})
    answers = Rows("a", {"key": answered, "y": np.arange(len(answered))})
    return LabelJoin(questions, answers, key="key", horizon_rows=horizon, **others)


def drained(source, sizes=(7,)):
    """Every batch until the answers fall silent."""
    batches = []
    while True:
        try:
            batches.append(source.take(sizes[len(batches) % len(sizes)]))
        except NotEnoughData:
            return batches


def pairs(batches):
    return [
        tuple(pair) for batch in batches for pair in zip(*(batch.columns[name].tolist() for name in "xy"), strict=True)
    ]


def late_answers(draw_delays):
    """Keys of answers: those of questions 0.. in the order of their number plus a delay, where that is not None."""
    due = [(number + delay, number) for number, delay in enumerate(draw_delays) if delay is not None]
    return np.array([number for _, number in sorted(due)], np.int64)


delays = st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=120)
sizes = st.lists(st.integers(1, 20), min_size=1, max_size=4)


@settings(deadline=None)
@given(delays, sizes)
def test_answers_within_the_horizon_all_find_their_question_in_their_order(delay, size):
    answered = late_answers(delay)
    source = join(list(range(len(delay))), answered, horizon=150)

    assert pairs(drained(source, size)) == [(number, place) for place, number in enumerate(answered)]
    assert source.statistics().orphans == source.statistics().expired == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=80), st.lists(st.integers(0, 30), max_size=80), st.integers(1, 9), sizes)
def test_every_question_is_learnt_waits_or_expired_and_every_answer_learnt_or_orphan(asked, answered, horizon, size):
    source = join(np.array(asked, np.int64), np.array(answered, np.int64), horizon)
    learnt = pairs(drained(source, size))
    counts = source.statistics()

    assert counts.asked == len(learnt) + counts.waiting + counts.expired
    assert len(answered) == len(learnt) + counts.orphans
    assert counts.waiting <= 2 * horizon
    assert len({x for x, _ in learnt}) == len({y for _, y in learnt}) == len(learnt)
    assert all(asked[x] == answered[y] for x, y in learnt)
    assert learnt == pairs(drained(join(np.array(asked, np.int64), np.array(answered, np.int64), horizon), (1,)))


@settings(deadline=None)
@given(delays, sizes, st.integers(1, 30), st.data())
def test_spans_only_move_forward_also_over_a_stop_between_any_two_batches(delay, size, horizon, data):
    asked, answered = list(range(len(delay))), late_answers(delay)
    whole = drained(join(asked, answered, horizon), size)
    source, ledger, batches = join(asked, answered, horizon), Ledger(), []
    for number in range(len(whole)):
        batches.append(source.take(size[number % len(size)]))
        ledger = ledger.advanced(batches[-1].span)  # raises where a span repeats or skips a record
        if data.draw(st.booleans()):
            position = json.loads(json.dumps(source.position()))
            source = join(asked, answered, horizon)
            source.seek(position)

    assert pairs(batches) == pairs(whole)
    assert [batch.span for batch in batches] == [batch.span for batch in whole]


def test_a_question_expires_once_answers_are_further_than_the_horizon():
    source = join(range(40), [0, 12, 9, 15, 2, 8], horizon=10)

    assert pairs(drained(source)) == [(0, 0), (9, 2), (15, 3), (8, 5)]
    assert source.statistics().orphans == 2  # 12 was more than 10 ahead, 2 came when 15 had been answered
    assert source.statistics().expired == 6  # 1 to 5, and 6, which the orphan 2 pushed out


def test_answers_after_a_long_gap_are_found_again():
    answered = [*range(20), *range(2000, 2500)]
    source = join(range(2500), answered, horizon=30)

    learnt = pairs(drained(source))

    assert [x for x, _ in learnt[:20]] == list(range(20))
    assert learnt[-1][0] == 2499
    assert len(answered) - len(learnt) < 30 + 2 * (2000 - 20) / 30


def test_the_newest_questions_wait_however_many_orphans_come():
    answered = [*range(10_000, 10_500), *range(60, 100)]
    source = join(range(100), answered, horizon=40)

    assert [x for x, _ in pairs(drained(source))] == list(range(60, 100))


def test_a_topic_that_mostly_answers_others_loses_no_answer_of_ours():
    random = np.random.default_rng(0)
    ours = list(range(300))
    answered = np.concatenate([[number, *random.integers(10_000, 99_999, 9)] for number in ours])
    source = join(ours, answered, horizon=40)

    assert [x for x, _ in pairs(drained(source))] == ours
    assert source.statistics().orphans == 9 * 300


def test_a_second_answer_is_an_orphan_and_a_second_question_takes_the_place_of_the_first():
    source = join([5, 6, 5, 7], [6, 6, 7, 5], horizon=10)

    assert pairs(drained(source)) == [(1, 0), (3, 2), (2, 3)]
    assert (source.statistics().orphans, source.statistics().expired) == (1, 1)


def test_silent_answers_leave_what_was_read_to_the_next_batch():
    source = join(range(10), [77, 78, 3, 4], horizon=5)
    source._answers.ends = 2
    with pytest.raises(NotEnoughData):
        source.take(2)
    position = json.loads(json.dumps(source.position()))
    resumed = join(range(10), [77, 78, 3, 4], horizon=5)
    resumed.seek(position)

    for one in (source, resumed):
        one._answers.ends = 4
        batch = one.take(2)
        assert batch.span[StreamPartition("log", "a", 0)] == Span(Position(0), Position(4))
        assert pairs([batch]) == [(3, 2), (4, 3)]


def test_questions_that_break_on_the_way_lose_no_answer():
    source = join(range(200), [3, 150, 4, 5], horizon=500)
    source._questions.ends, source._questions.error = 100, OSError
    with pytest.raises(OSError, match="no more"):
        source.take(4)
    source._questions.ends = 200

    assert pairs([source.take(4)]) == [(3, 0), (150, 1), (4, 2), (5, 3)]


def test_questions_are_told_when_read_and_not_again_because_they_wait():
    told = []
    source = join(range(300), range(300), on_questions=lambda batch: told.extend(batch.columns["key"].tolist()))
    source.take(70)
    position = json.loads(json.dumps(source.position()))
    source.seek(position)
    drained(source, (13,))
    other = []
    resumed = join(range(300), range(300), on_questions=lambda batch: other.extend(batch.columns["key"].tolist()))
    resumed.seek(position)
    drained(resumed)

    assert told == list(range(300))
    assert other == list(range(128, 300))  # two parts had been read


def test_after_a_seek_back_the_later_questions_are_told_anew():
    told = []
    source = join(range(100), range(100), on_questions=lambda batch: told.extend(batch.columns["key"].tolist()))
    source.take(1)
    position = source.position()
    source.take(80)
    for back, expected in ((position, range(64, 100)), ({}, range(100))):
        told.clear()
        source.seek(back)
        drained(source)

        assert told == list(expected)


def test_what_waits_is_found_again_however_few_rows_a_take_gives():
    source = join(range(100), [50, 1, 2])
    source.take(1)
    position, whole = source.position(), source._questions.take
    source._questions.take = lambda size: whole(min(size, 7))
    source.seek(position)

    assert source.position() == position
    assert pairs([source.take(2)]) == [(1, 1), (2, 2)]


def test_units_multiply_and_masked_rows_are_left_out():
    questions = Rows("q", {"key": np.arange(4), "x": np.arange(4)}, units=np.float32([1, 2, 3, 4]))
    mask = np.array([True, True, False])
    answers = Rows("a", {"key": np.array([2, 1, 3]), "y": np.arange(3)}, units=np.float32([0.5, 2, 9]), mask=mask)
    batch = LabelJoin(questions, answers, key="key", horizon_rows=9).take(9)

    assert pairs([batch]) == [(2, 0), (1, 1)]
    assert batch.effective_units().tolist() == [1.5, 4.0]


def test_keys_may_be_text_and_need_not_be_learnt():
    source = join(np.array(["ab", "cde"]), np.array(["cde", "ab"]), keeps_key=False)

    assert set(source.schema) == {"x", "y"}
    assert pairs([source.take(2)]) == [(1, 0), (0, 1)]


def test_a_position_stays_small_while_thousands_wait():
    source = join(range(9000), [5000, 1], horizon=5000)
    source.take(2)

    assert source.statistics().waiting > 4000
    assert len(json.dumps(source.position())) < 3500


def test_questions_that_changed_are_refused_and_the_join_stands_where_it_stood():
    source = join(range(100), [50, 1, 2])
    source.take(1)
    position = source.position()
    shorter = join(range(30), [3, 1, 2])
    shorter.take(1)
    before = shorter.position()

    with pytest.raises(ValueError, match="must find its questions again"):
        shorter.seek(position)
    assert shorter.position() == before
    assert pairs([shorter.take(2)]) == [(1, 1), (2, 2)]


def test_impossible_joins_are_refused():
    with pytest.raises(SettingsError, match="1 or more rows, got 0"):
        join([1], [1], horizon=0)
    with pytest.raises(ShapeError, match="must both have the key"):
        join([1], np.array(["a"]))
    with pytest.raises(ShapeError, match="must both have the key"):
        join([1.5], [1.5])
    with pytest.raises(ShapeError, match=r"got \['x'\] in both"):
        LabelJoin(Rows("q", {"key": [1], "x": [1]}), Rows("a", {"key": [1], "x": [1]}), key="key", horizon_rows=1)
    for wrong in (
        {"front": -1},
        {"questions": {}},
        {"questions": join([1], [1]).position()["questions"] | {"first": 3}},
    ):
        with pytest.raises(ValueError, match="position"):
            join([1], [1]).seek({**join([1], [1]).position(), **wrong})
