"""An actor as a process: plays CartPole by the newest model of a run, and appends every step to a served table.

    python examples/cartpole/actor.py --address 127.0.0.1:8400 --table site-0 --run runs/cartpole

Plays as fast as the table's limiter lets it, until SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cartpole import ENVIRONMENTS, LEAST_EPSILON, Actor, Policy

from fedmb.errors import RateLimited
from fedmb.federation import checkpoint
from fedmb.replay import RemoteTable

PLAYED = 10  # steps of each environment between two looks for a newer model
EXPLORING_ROWS = 15_000  # of a site, over which epsilon falls


class Waiting:
    """A destination that waits for the limiter in steps, so that SIGTERM is heard."""

    def __init__(self, table: RemoteTable, stop: threading.Event) -> None:
        self.schema, self._table, self._stop, self.rows = table.schema, table, stop, 0

    def append(self, columns: dict) -> None:
        """Append, and count."""
        while not self._stop.is_set():
            try:
                self._table.append(columns, timeout=0.5)
            except RateLimited:
                continue
            self.rows += len(columns["reward"])
            return


def main() -> int:
    """Play."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root-certificates", type=Path, help="PEM; vouches for a service beyond loopback")
    parser.add_argument("--token-file", type=Path, help="what such a service wants to be shown")
    parser.add_argument("--beat", type=Path, help="file to touch while it plays, for who watches")
    chosen = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    secrets = {"root_certificates": chosen.root_certificates, "token_file": chosen.token_file}
    with RemoteTable(chosen.address, chosen.table, **secrets) as table:
        destination = Waiting(table, stop)
        actor = Actor(destination, num_envs=ENVIRONMENTS, seed=chosen.seed)
        version, policy = 0, Policy.random(chosen.seed)
        while not stop.is_set():
            found = checkpoint.generations(chosen.run / "checkpoints")
            if found and found[-1][0] > version:
                state = checkpoint.newest(chosen.run / "checkpoints")
                version, policy = state.version, Policy(state.arrays)
            actor.play(policy, PLAYED, max(LEAST_EPSILON, 1 - destination.rows / EXPLORING_ROWS))
            if chosen.beat is not None:
                chosen.beat.touch()
        actor.close()
    print(f"played {destination.rows} steps, the last by version {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
