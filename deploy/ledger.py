"""Waits for the newest run to end, then looks whether its ledger is exact: each row of the streams learnt once.

    python deploy/ledger.py runs --rows-per-record 8

A model's ledger says how far it has learnt each partition; the rows that clients counted are told beside it, in the
same file. A row that was lost or learnt twice makes the two differ. Exit code 0 where they are equal, 1 where not.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedmb.federation import checkpoint
from fedmb.federation.deployed_server import ServerSettings
from fedmb.launch.begun_run import latest
from fedmb.settings import load

if TYPE_CHECKING:
    from fedmb.federation.checkpoint import ServerState

LOOK_SECONDS = 2.0


def differences(state: ServerState, rows_per_record: int) -> list[str]:
    """What does not fit, a line each: rows by the ledger, and rows that were learnt."""
    by_ledger = sum(here.offset * rows_per_record + here.row for here in state.ledger.values())
    learnt = sum(rows.get("stream", 0) for rows in state.learnt.values())
    found = [] if by_ledger == learnt else [f"the ledger stands at {by_ledger} rows, {learnt} were learnt"]
    positions = [place for position in state.positions.values() for place in ledgers_in(position)]
    for partition, here in state.ledger.items():
        place = [here.offset, here.row]
        if positions.count((str(partition), place)) != 1:
            found.append(f"{partition} stands at {place}, and at another place for its client")
    return found


def ledgers_in(position: object) -> list[tuple[str, list[int]]]:
    """Partitions and places in a client's position, wherever its source keeps them."""
    if not isinstance(position, dict):
        return []
    here = [(name, list(place)) for name, place in position.get("ledger", {}).items()]
    return here + [found for value in position.values() for found in ledgers_in(value)]


def ended(run: Path, rounds: float) -> ServerState | None:
    """The run's last state, once it has no more rounds to come, by its own settings and by what it is to be given."""
    state, settings = checkpoint.newest(run / "checkpoints"), run / "config.toml"
    if state is None or not settings.is_file():
        return None
    last = max(rounds, load(ServerSettings, file=settings).rounds.last)
    return state if state.version >= last or state.convergence.get("reason") else None


def main() -> int:
    """Wait, then tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows-per-record", type=int, required=True)
    parser.add_argument("--wait-seconds", type=float, default=math.inf, help="for the run to end")
    parser.add_argument("--rounds", default="0", help="that the run is to have in the end, or forever")
    chosen = parser.parse_args()
    rounds = math.inf if chosen.rounds == "forever" else float(chosen.rounds)
    deadline = time.monotonic() + chosen.wait_seconds
    while (run := latest(chosen.runs)) is None or (state := ended(run, rounds)) is None:
        if time.monotonic() > deadline:
            print(f"error: the run has not ended within {chosen.wait_seconds:g} s", file=sys.stderr)
            return 1
        time.sleep(LOOK_SECONDS)
    found = differences(state, chosen.rows_per_record)
    for line in found:
        print(f"not exact: {line}")
    if not found:
        stands = ", ".join(f"{partition} @ {here.offset}+{here.row}" for partition, here in state.ledger.items())
        print(f"exact: {run.name} version {state.version}, {stands}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
