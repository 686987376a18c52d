"""The ledger's algebra: spans join, a ledger advances only from where it stands, JSON brings everything back."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedmb.errors import StaleUpdate
from fedmb.ledger import (
    Ledger,
    Position,
    Span,
    StreamPartition,
    groups_within,
    joined,
    ledger_within,
    parse_position,
    partitions_within,
    spans_from_json,
    spans_to_json,
)

PARTITIONS = st.builds(
    StreamPartition,
    st.text("abc/-[]", min_size=1, max_size=5),
    st.text("abc-[].", min_size=1, max_size=5),
    st.integers(0, 9),
)
POSITIONS = st.builds(Position, st.integers(0, 1 << 62), st.integers(0, 1000))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def consecutive_spans(draw: st.DrawFn, num_stretches: int) -> list[dict[StreamPartition, Span]]:
    """Spans of stretches that follow each other, each touching some of a few partitions, from their beginning."""
    partitions = draw(st.lists(PARTITIONS, min_size=1, max_size=3, unique=True))
    here = dict.fromkeys(partitions, Position(0))
    stretches = []
    for _ in range(num_stretches):
        spans = {}
        for partition in draw(st.lists(st.sampled_from(partitions), unique=True)):
            start = here[partition]
            here[partition] = Position(start.offset + draw(st.integers(0, 5)), start.row + draw(st.integers(0, 5)))
            spans[partition] = Span(start, here[partition])
        stretches.append(spans)
    return stretches


@settings(deadline=None)
@given(consecutive_spans(3))
def test_joining_is_associative(stretches):
    first, second, third = stretches

    assert joined(joined(first, second), third) == joined(first, joined(second, third))


@settings(deadline=None)
@given(consecutive_spans(3))
def test_advancing_by_parts_equals_advancing_by_their_join(stretches):
    first, second, third = stretches

    by_parts = Ledger().advanced(first).advanced(second).advanced(third)
    at_once = Ledger().advanced(joined(joined(first, second), third))

    assert by_parts == at_once


@settings(deadline=None)
@given(consecutive_spans(1))
def test_the_empty_span_changes_nothing(stretches):
    spans = stretches[0]

    assert joined({}, spans) == joined(spans, {}) == spans
    assert Ledger().advanced(spans).advanced({}) == Ledger().advanced(spans)


@settings(deadline=None)
@given(PARTITIONS, POSITIONS, POSITIONS, POSITIONS)
def test_a_span_that_starts_elsewhere_is_refused(partition, here, start, stop):
    assume(start != here)
    ledger = Ledger({partition: here})
    spans = {partition: Span(start, max(start, stop))}

    assert not ledger.admits(spans)
    with pytest.raises(StaleUpdate, match="must start at the ledger's position"):
        ledger.advanced(spans)


@settings(deadline=None)
@given(consecutive_spans(1))
def test_the_same_update_is_admitted_once(stretches):
    spans = stretches[0]
    assume(any(span.start != span.stop for span in spans.values()))
    ledger = Ledger()

    assert ledger.admits(spans)
    assert not ledger.advanced(spans).admits(spans)


def test_a_span_that_runs_backwards_is_refused():
    partition = StreamPartition("log", "meter", 0)
    ledger = Ledger({partition: Position(9)})
    backwards = {partition: Span(Position(9), Position(8))}

    assert not ledger.admits(backwards)
    with pytest.raises(StaleUpdate, match="backwards"):
        ledger.advanced(backwards)


def test_spans_with_a_gap_are_not_joined():
    partition = StreamPartition("log", "meter", 0)
    earlier = {partition: Span(Position(0), Position(4))}
    later = {partition: Span(Position(5), Position(6))}

    with pytest.raises(StaleUpdate, match="must follow each other"):
        joined(earlier, later)


def test_advancing_leaves_the_old_ledger_as_it_was():
    partition = StreamPartition("log", "meter", 0)
    before = Ledger()

    after = before.advanced({partition: Span(Position(0), Position(3, 2))})

    assert before.position(partition) == Position(0, 0)
    assert after.position(partition) == Position(3, 2)


@settings(deadline=None)
@given(st.dictionaries(PARTITIONS, POSITIONS, max_size=4))
def test_a_ledger_comes_back_from_json(positions):
    ledger = Ledger(positions)

    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


@settings(deadline=None)
@given(st.dictionaries(PARTITIONS, st.builds(Span, POSITIONS, POSITIONS), max_size=4))
def test_spans_come_back_from_json(spans):
    assert spans_from_json(json.loads(json.dumps(spans_to_json(spans)))) == spans


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=12), JSON, min_size=1, max_size=3))
def test_garbage_is_refused_with_a_value_error(garbage):
    # A ledger and spans never look alike, so whatever one of them reads the other must refuse.
    refused = 0
    for read in (Ledger.from_json, spans_from_json):
        try:
            read(garbage)
        except ValueError:
            refused += 1

    assert refused >= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "topic[0]",
        "log/[0]",
        "/topic[0]",
        "log/topic",
        "log/topic[x]",
        "log/topic[-1]",
        "log/topic[007]",
        "log/topic[٣]",
    ],
)
def test_a_partition_written_otherwise_is_refused(text):
    with pytest.raises(ValueError, match=r"log/topic\[partition\]"):
        StreamPartition.parse(text)


@pytest.mark.parametrize(
    "value", [None, 3, [1], [1, 2, 3], [-1, 0], [1, -1], [1.0, 0], [True, 0], ["1", 0], {"offset": 1}]
)
def test_a_position_written_otherwise_is_refused(value):
    with pytest.raises(ValueError, match="two numbers from 0"):
        parse_position(value)


def test_ledgers_are_found_wherever_wrappers_put_them():
    position = {
        "fresh": {"ledger": {"a/t[0]": [3, 1]}, "turn": 0},
        "draws": 4,
        "parts": {"b": {"ledger": {"b/t[1]": [2, 0]}}},
    }

    assert ledger_within(position).to_json() == {"a/t[0]": [3, 1], "b/t[1]": [2, 0]}
    assert ledger_within({"cursor": 3}) == ledger_within(None) == Ledger()
    with pytest.raises(ValueError, match="position is written"):
        ledger_within({"ledger": {"a/t[0]": [-1, 0]}})


def test_names_of_partitions_are_found_whatever_their_places_say():
    position = {"fresh": {"ledger": {"a/t[0]": "nowhere"}}, "parts": {"b": {"ledger": {"b/t[1]": [2, 0]}, "draws": 4}}}

    assert partitions_within(position) == {"a/t[0]", "b/t[1]"}
    assert partitions_within({"ledger": 3}) == partitions_within(None) == set()


def test_groups_are_found_wherever_wrappers_put_them():
    position = {"fresh": {"ledger": {}, "group": "a/t"}, "parts": {"b": {"group": "b/t"}}, "group": 3}

    assert groups_within(position) == {"a/t", "b/t"}
    assert groups_within(None) == set()
