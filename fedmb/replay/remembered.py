"""What a blend needs of a memory: rows appended in the order of a stream, draws by number, and the way back.

A memory keeps no random generator: what a draw gives depends on (seed, client, number of the draw) and on what is
remembered, and that depends on the rows alone. So whoever goes back to a number of rows and appends the same again
draws the same again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, MiniBatch, Schema


class Remembered(Protocol):
    """Rows of a stream that can be drawn again: the newest ones, or those that a memory chose."""

    def __len__(self) -> int:
        """Rows that can be drawn now."""

    @property
    def schema(self) -> Schema:
        """Columns of every row."""

    @property
    def appended(self) -> int:
        """Rows shown to the memory so far, forgotten ones included: the number of the next row."""

    def append(self, columns: Columns) -> range:
        """Show rows to the memory and answer their numbers; it keeps what it chooses.

        Raises:
            ShapeError: columns do not follow the schema.
        """

    def sample(self, size: int, draw: int) -> MiniBatch:
        """`size` rows, with replacement, in fresh arrays and without a span, by the draw's number.

        Raises:
            NotEnoughData: there is no row.
            ValueError: `size` is below 1.
        """

    def rewind(self, appended: int) -> int:
        """Go to where `appended` rows had been shown; answers how many rows of that moment are lost for good.

        Raises:
            ValueError: `appended` is negative.
        """

    def flush(self) -> None:
        """Make the rows survive a power cut, where they lie in a file."""

    def close(self) -> None:
        """Release files; the memory is not used afterwards."""


@runtime_checkable
class RemembersLosses(Remembered, Protocol):
    """A memory that also keeps the loss of each row and draws by it."""

    @property
    def batches(self) -> int:
        """Number of the next batch: appends so far."""

    @property
    def wants_losses(self) -> bool:
        """Whether the next batch depends on losses that are not known yet."""

    @property
    def drawn(self) -> NDArray[np.int64]:
        """Numbers of the rows that the last `sample` gave."""

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Take note of which rows stand in the batch appended last, in its order; -1 is a row of no interest."""

    def hear(self, batch: int, losses: NDArray[np.float32]) -> None:
        """Learn the losses of the rows of a batch, in its order; batches that nobody expects are passed over."""

    def kept_losses(self) -> str:
        """Keep all losses known now, and answer the name under which `restore_losses` finds them."""

    def restore_losses(self, name: str) -> None:
        """Go to the losses that were kept under this name, after a rewind to the rows of the same moment."""
