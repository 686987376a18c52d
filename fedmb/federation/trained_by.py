"""Which records trained a version of the model, as far as its run knows.

The ledger says it of streams: every record of a partition from the beginning, or from an earlier version, up to its
position, but for those that were set aside. A position counts offsets: one for each record, and in a broker's topic
also one for what ends a transaction or was compacted away. Private tables are told by the passes that were made over
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.set_aside import SetAside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fedmb.ledger import Position, StreamPartition

_PASSES = "epoch"  # key by which the position of a table is known


def trained_by(
    state: ServerState,
    since: ServerState | None = None,
    *,
    dead_letters: Mapping[str, Sequence[str | Path]] | None = None,
) -> dict[str, Any]:
    """JSON values that name what trained `state`.

    - `streams`: for each partition its client, the positions `[offset, row]` `from` and `to`, the number of `offsets`
      touched, and `set_aside`, those among them whose record could not be decoded; null where nobody knows.
    - `tables`: for each private table its client and its positions `from` and `to`.
    - `rows`: rows drawn, in total and by client, by origin.

    Args:
        state: the version.
        since: an earlier version of the run; None for the beginning.
        dead_letters: where set-aside records lie, by client, as `SetAside.opened` takes it; those under "" may be any
            client's.

    Raises:
        SettingsError: `since` is not an earlier version of the same run, or there are no dead letters at a place.
        FedmbError: as `SetAside`.
    """
    start = since or ServerState(version=0, arrays={}, seed=state.seed)
    if start.version > state.version or any(state.ledger.position(p) < here for p, here in start.ledger.items()):
        raise SettingsError(
            f"a record starts at an earlier version of the same run, got {start.version} for {state.version}; "
            "choose a smaller --since"
        )
    owners = {partition: client for client, names in _partitions(state).items() for partition in names}
    letters = {client: list(map(SetAside.opened, places)) for client, places in (dead_letters or {}).items()}
    return {
        "streams": [
            _stream(partition, start.ledger.position(partition), here, owners.get(str(partition)), letters)
            for partition, here in state.ledger.items()
        ],
        "tables": list(_tables(state, start)),
        "rows": _rows(state, start),
    }


def _stream(
    partition: StreamPartition,
    first: Position,
    last: Position,
    client: str | None,
    dead_letters: Mapping[str, Sequence[SetAside]],
) -> dict[str, Any]:
    places = [*dead_letters.get(client or "", ()), *dead_letters.get("", ())]
    known = [one for one in places if one.may_hold(partition)]
    end = last.offset + (last.row > 0)
    errors = {offset: error for one in known for offset, error in one.letters(partition).items()}
    letters = [{"offset": one, "error": errors[one]} for one in sorted(errors) if first.offset <= one < end]
    return {
        "partition": str(partition),
        "client": client,
        "from": list(first),
        "to": list(last),
        "offsets": end - first.offset,
        "set_aside": letters if known else None,
    }


def _tables(state: ServerState, start: ServerState) -> Iterator[dict[str, Any]]:
    for client, position in sorted(state.positions.items()):
        before = dict(_sources_with(_PASSES, start.positions.get(client, {}).get("source", {})))
        for name, source in _sources_with(_PASSES, position.get("source", {})):
            yield {"client": client, "table": name, "from": before.get(name, {}), "to": dict(source)}


def _partitions(state: ServerState) -> dict[str, list[str]]:
    """Names of the stream partitions in each client's position."""
    return {
        client: [name for _, source in _sources_with("ledger", position.get("source", {})) for name in source["ledger"]]
        for client, position in state.positions.items()
    }


def _sources_with(key: str, position: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Positions that have `key`, with the name that a mixture gives them, among a position and those inside it."""
    if key in position:
        yield name, position
        return
    for inner, value in sorted(position.items()):
        if isinstance(value, dict):
            # "fresh" and "sources" are a blend's and a mixture's own words, not names that a user gave.
            yield from _sources_with(key, value, name if inner in {"fresh", "sources"} else inner)


def _rows(state: ServerState, start: ServerState) -> dict[str, Any]:
    by_client = {
        client: {origin: count - start.learnt.get(client, {}).get(origin, 0) for origin, count in sorted(rows.items())}
        for client, rows in sorted(state.learnt.items())
    }
    total: dict[str, int] = {}
    for rows in by_client.values():
        for origin, count in rows.items():
            total[origin] = total.get(origin, 0) + count
    return {"total": dict(sorted(total.items())), "by_client": by_client}
