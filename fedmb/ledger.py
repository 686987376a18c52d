"""Up to where a model has learnt each stream: offsets are part of the model.

A `Position` is a record's offset and, inside a packed record, the number of its rows already used. A `Span` is the
stretch between two positions of one partition. A `Ledger` holds one position for each stream partition and advances
only by spans that start exactly where it stands, so nothing is learnt twice and nothing is skipped, whoever was
killed when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from fedmb.errors import StaleUpdate


class StreamPartition(NamedTuple):
    """One partition of one topic of one log.

    `log` is the log's identity (a file log's id, a Kafka cluster id), so that two sites whose private topics
    have the same name stay apart in one server's ledger.
    """

    log: str
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.log}/{self.topic}[{self.partition}]"

    @classmethod
    def parse(cls, text: str) -> StreamPartition:
        """Read back what `str` wrote.

        Raises:
            ValueError: the text is not `log/topic[partition]`.
        """
        name, _, index = text.removesuffix("]").rpartition("[")
        log, _, topic = name.rpartition("/")
        parsed = cls(log, topic, int(index) if index.isdecimal() else 0)
        if not log or not topic or str(parsed) != text:  # one text for each partition: no [007], no other digits
            raise ValueError(f"a stream partition is written log/topic[partition], got {text!r}")
        return parsed


class Position(NamedTuple):
    """A place between two rows of a partition; positions compare in reading order."""

    offset: int
    """Offset of the record that holds the next row."""
    row: int = 0
    """Rows of that record already used; 0 except inside a packed record."""


class Span(NamedTuple):
    """The rows from `start` up to, not including, `stop`."""

    start: Position
    stop: Position


Spans: TypeAlias = Mapping[StreamPartition, Span]


def joined(earlier: Spans, later: Spans) -> dict[StreamPartition, Span]:
    """The spans of two consecutive stretches taken together.

    Raises:
        StaleUpdate: a partition's later span does not start where its earlier one stops.
    """
    result = dict(earlier)
    for partition, span in later.items():
        before = result.get(partition)
        if before is not None and before.stop != span.start:
            raise StaleUpdate(
                f"spans of {partition} must follow each other, got one that stops at {tuple(before.stop)} and one "
                f"that starts at {tuple(span.start)}; seek the source back to where the first one stops"
            )
        result[partition] = Span(before.start, span.stop) if before else span
    return result


class Ledger(Mapping[StreamPartition, Position]):
    """An immutable map from stream partition to the position up to which a model has learnt.

    A partition that it does not name stands at its beginning: `position(p)` answers `Position(0, 0)`.
    """

    __slots__ = ("_positions",)

    def __init__(self, positions: Mapping[StreamPartition, Position] | None = None) -> None:
        self._positions = dict(sorted((positions or {}).items()))

    def __getitem__(self, partition: StreamPartition) -> Position:
        return self._positions[partition]

    def __iter__(self) -> Iterator[StreamPartition]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        inside = ", ".join(f"{partition}: {tuple(position)}" for partition, position in self.items())
        return f"Ledger({{{inside}}})"

    def position(self, partition: StreamPartition) -> Position:
        """Where `partition` stands; its beginning when the ledger does not name it."""
        return self._positions.get(partition, Position(0))

    def admits(self, spans: Spans) -> bool:
        """True when every span starts exactly where the ledger stands and does not run backwards."""
        return all(self.position(p) == span.start and span.start <= span.stop for p, span in spans.items())

    def advanced(self, spans: Spans) -> Ledger:
        """The ledger after `spans` were learnt.

        Raises:
            StaleUpdate: a span does not start where the ledger stands, or runs backwards.
        """
        for partition, span in spans.items():
            here = self.position(partition)
            if span.start != here:
                raise StaleUpdate(
                    f"a span of {partition} must start at the ledger's position {tuple(here)}, got "
                    f"{tuple(span.start)}; drop the update and seek the client back to the ledger"
                )
            if span.stop < span.start:
                raise StaleUpdate(
                    f"a span of {partition} must not run backwards, got {tuple(span.start)} to {tuple(span.stop)}; "
                    "drop the update"
                )
        return Ledger({**self._positions, **{partition: span.stop for partition, span in spans.items()}})

    def to_json(self) -> dict[str, list[int]]:
        """JSON form: `{"log/topic[0]": [offset, row]}`, keys sorted."""
        return {str(partition): list(position) for partition, position in self.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Ledger:
        """Read `to_json` back.

        Raises:
            ValueError: a key or a position has another form, or a number is negative.
        """
        return cls({StreamPartition.parse(key): parse_position(entry) for key, entry in value.items()})


def ledger_within(position: object) -> Ledger:
    """The ledgers inside a source's position, which its wrappers nest, taken together.

    Raises:
        ValueError: one of them has another form.
    """
    if not isinstance(position, Mapping):
        return Ledger()
    positions = dict(Ledger.from_json(position["ledger"])) if isinstance(position.get("ledger"), Mapping) else {}
    for key, inner in position.items():
        if key != "ledger":
            positions |= ledger_within(inner)
    return Ledger(positions)


def partitions_within(position: object) -> set[str]:
    """Names of the partitions that a source's position stands in, at any depth, whatever the places say."""
    if not isinstance(position, Mapping):
        return set()
    own = set(map(str, position["ledger"])) if isinstance(position.get("ledger"), Mapping) else set()
    return own.union(*(partitions_within(inner) for key, inner in position.items() if key != "ledger"))


def groups_within(position: object) -> set[str]:
    """Groups, each `log/topic`, that a source's position names at any depth."""
    if not isinstance(position, Mapping):
        return set()
    own = {position["group"]} if isinstance(position.get("group"), str) else set()
    return own.union(*map(groups_within, position.values()))


def parse_position(value: object) -> Position:
    """A position from its JSON form `[offset, row]`.

    Raises:
        ValueError: it has another form, or a number is negative.
    """
    if (
        isinstance(value, list | tuple)
        and len(value) == len(Position._fields)
        and all(type(number) is int and number >= 0 for number in value)
    ):
        return Position(*value)
    raise ValueError(f"a position is written [offset, row] with two numbers from 0, got {value!r}")


def spans_to_json(spans: Spans) -> dict[str, list[list[int]]]:
    """JSON form of spans: `{"log/topic[0]": [[offset, row], [offset, row]]}`, keys sorted."""
    return {str(partition): [list(span.start), list(span.stop)] for partition, span in sorted(spans.items())}


def spans_from_json(value: Mapping[str, object]) -> dict[StreamPartition, Span]:
    """Read `spans_to_json` back.

    Raises:
        ValueError: a key or a position has another form.
    """
    spans = {}
    for key, entry in value.items():
        if not isinstance(entry, list | tuple) or len(entry) != len(Span._fields):
            raise ValueError(f"a span is written [start, stop], got {entry!r} for {key!r}")
        spans[StreamPartition.parse(key)] = Span(parse_position(entry[0]), parse_position(entry[1]))
    return spans
