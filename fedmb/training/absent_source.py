"""What the other ranks of a client hold in place of its source, which only rank 0 opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from fedmb.batch.minibatch import Column
from fedmb.batch.replay_share import ReplayShare, replay_share

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fedmb.batch.minibatch import Schema
    from fedmb.batch.source import BatchSource, SourcePosition


class AbsentSource:
    """A `BatchSource` that says what rank 0's is like and gives no row; `DealtSource` never asks it for one.

    Args:
        description: what `described` said of rank 0's source, a JSON value.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._schema = {name: Column(dtype, tuple(shape)) for name, (dtype, shape) in description["schema"].items()}
        self._examples_per_epoch = float(description["examples_per_epoch"])
        share = description["replay_share"]
        self._replay_share = None if share is None else ReplayShare(*share)

    @property
    def schema(self) -> Schema:
        """Columns of rank 0's source."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows in one pass over rank 0's source."""
        return self._examples_per_epoch

    @property
    def replay_share(self) -> ReplayShare | None:
        """The replayed share that rank 0's source was opened with."""
        return self._replay_share

    def change_replay_share(self, share: float) -> None:
        """Nothing: rank 0 changes its source's."""

    def take(self, size: int) -> NoReturn:
        """Never: rank 0 takes, and deals.

        Raises:
            AssertionError: always.
        """
        raise AssertionError(f"rank 0 takes for all, and this rank asked for {size} rows")

    def position(self) -> SourcePosition:
        """An empty one; rank 0's counts."""
        return {}

    def seek(self, position: SourcePosition) -> None:
        """Nothing: rank 0's source is sought."""

    def close(self) -> None:
        """Nothing is open."""


def described(source: BatchSource) -> dict[str, Any]:
    """What other ranks need to know of rank 0's source, as JSON values."""
    return {
        "schema": {name: [column.dtype, list(column.shape)] for name, column in source.schema.items()},
        "examples_per_epoch": str(source.examples_per_epoch),  # inf is no number in JSON
        "replay_share": replay_share(source),
    }
