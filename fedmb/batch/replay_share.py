"""The part of a batch that is replayed, where a source lets it be changed while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from fedmb.batch.source import BatchSource


class ReplayShare(NamedTuple):
    """Parts of a batch, from 0 to below 1."""

    usual: float
    """What the source was made with."""
    in_force: float
    """What the next batch holds."""


@runtime_checkable
class SharesReplay(Protocol):
    """What a `BatchSource` may offer beside its protocol; a wrapper passes it on to what it wraps.

    The share in force belongs to the position: who seeks back to a position has its share again.
    """

    @property
    def replay_share(self) -> ReplayShare | None:
        """The share; None where nothing is remembered that could be replayed."""
        ...

    def change_replay_share(self, share: float) -> None:
        """Fill this part of every batch from the next one on; no row that was taken changes.

        Raises:
            SettingsError: the share is not 0 to below 1, or nothing is remembered.
        """
        ...


def replay_share(source: BatchSource) -> ReplayShare | None:
    """The replayed share of a source; None where it has none that could be changed."""
    return source.replay_share if isinstance(source, SharesReplay) else None
