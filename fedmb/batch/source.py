"""Where mini-batches come from: one protocol for tables, files, logs, rings and wrappers around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from fedmb.batch.minibatch import MiniBatch, Schema

SourcePosition: TypeAlias = dict[str, Any]
"""A source's whole state as JSON values: small, readable, the same on every machine."""


@runtime_checkable
class BatchSource(Protocol):
    """An endless supply of mini-batches whose whole state is a small position.

    Seeking to a position that `position()` gave and taking the same sizes again gives the same rows, bit for bit,
    also in another process. A source therefore keeps no random generator: it makes one from (seed, client, counter).
    """

    @property
    def schema(self) -> Schema:
        """Columns of every mini-batch this source gives."""
        ...

    @property
    def examples_per_epoch(self) -> float:
        """Rows in one pass over the source; `math.inf` for a stream."""
        ...

    def take(self, size: int) -> MiniBatch:
        """The next rows, at least one and at most `size`; blocks while a stream has none.

        Of `fedmb.batch.poisson` `size` is the number expected: chance may give more, or none.

        Raises:
            NotEnoughData: a stream stayed silent for longer than its patience.
        """
        ...

    def position(self) -> SourcePosition:
        """Where the next `take` starts."""
        ...

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: the position belongs to another kind of source.
        """
        ...

    def close(self) -> None:
        """Release files and threads; the source is not used afterwards."""
        ...
