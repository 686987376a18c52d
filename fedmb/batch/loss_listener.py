"""The loss of each row that a source gave, told back to it where it listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class LossListener(Protocol):
    """What a `BatchSource` may offer beside its protocol: it draws rows by what they cost when they were learnt.

    Losses may be told early or as late as `wants_losses` asks for them: which rows come next does not depend on it.
    """

    @property
    def listens(self) -> bool:
        """Whether anything is done with losses; false makes every other call free."""
        ...

    @property
    def batches(self) -> int:
        """Number of the batch that the next `take` gives."""
        ...

    @property
    def wants_losses(self) -> bool:
        """Whether the next `take` depends on losses of batches before it that were not told yet."""
        ...

    def hear(self, batch: int, losses: NDArray[np.float32]) -> None:
        """Learn the loss of each row of a batch, `(rows,)`, in its order; NaN is not known."""
        ...


def listener_of(source: object) -> LossListener | None:
    """The source as a listener; None where nothing would be done with what it is told."""
    return source if isinstance(source, LossListener) and source.listens else None
