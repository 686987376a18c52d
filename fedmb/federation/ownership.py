"""Whose a stream's partition is, as the clients' positions say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmb.ledger import Ledger, groups_within, partitions_within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ledger import StreamPartition


def of_groups(ledger: Ledger, position: object) -> Ledger:
    """The part of a ledger that concerns the groups that a client's position names."""
    groups = groups_within(position)
    return Ledger({one: place for one, place in ledger.items() if f"{one.log}/{one.topic}" in groups})


def owner_of(partition: StreamPartition, positions: Mapping[str, Mapping[str, Any]], *, other_than: str) -> str | None:
    """The client in whose position a partition stands, unless a consumer group put it there; None for no other."""
    return owners_in({client: one for client, one in positions.items() if client != other_than}).get(str(partition))


def owners_in(positions: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The owner of each partition that stands in a position and that no consumer group deals out, by its name."""
    owners: dict[str, str] = {}
    for client, position in sorted(positions.items()):
        groups = groups_within(position)
        for partition in partitions_within(position.get("source")):
            if partition.rpartition("[")[0] not in groups:
                owners.setdefault(partition, client)
    return owners
