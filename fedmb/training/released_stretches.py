"""How often each row of a stretch was in a release: of a stream's partition, or of one shuffled pass over a table.

A stretch is written by its ends, as a ledger writes them, `(offset, row)`, or the places of rows in a pass. What lies
side by side and was released as often is one piece, so a stream that is learnt once from end to end stays one piece.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Place: TypeAlias = tuple[int, ...]
Piece: TypeAlias = tuple[Place, Place, int]
"""From here, to before there, and in how many releases its rows were."""


def added(pieces: Sequence[Piece], start: Place, stop: Place) -> list[Piece]:
    """The pieces once every row from `start` to before `stop` was in one release more.

    Args:
        pieces: rising and apart, as this function answers them.
        start: where the release's rows begin.
        stop: where they end.
    """
    if not start < stop:
        return list(pieces)
    edges = sorted({start, stop, *(edge for begin, end, _ in pieces for edge in (begin, end))})
    result: list[Piece] = []
    for begin, end in pairwise(edges):
        times = sum(count for first, last, count in pieces if first <= begin < last) + (start <= begin < stop)
        if not times:
            continue
        if result and result[-1][1] == begin and result[-1][2] == times:
            result[-1] = (result[-1][0], end, times)
        else:
            result.append((begin, end, times))
    return result


def most(pieces: Iterable[Piece]) -> int:
    """In how many releases the row was that was in most."""
    return max((times for _, _, times in pieces), default=0)


def to_json(pieces: Iterable[Piece]) -> list[list[Any]]:
    """JSON form: `[[[from], [to], times], ...]`."""
    return [[list(start), list(stop), times] for start, stop, times in pieces]


def from_json(value: object) -> list[Piece]:
    """Read `to_json` back.

    Raises:
        ValueError, TypeError: it has another form.
    """
    if not isinstance(value, list):
        raise TypeError(f"pieces are a list, got {value!r}")
    return [(tuple(map(int, start)), tuple(map(int, stop)), int(times)) for start, stop, times in value]
