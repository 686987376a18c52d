"""A replay service in a process of its own, without the command line, and what clients of it do.

python replay_child.py serve FOLDER PORT CAPACITY      prints the address; runs until it is killed
python replay_child.py actor ADDRESS FIRST COUNT [TRANSPORT TOKEN ROOTS]
python replay_child.py learner ADDRESS BATCHES [TRANSPORT TOKEN ROOTS]
"""

import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "replay")]


def serve(folder, port, capacity):
    from replay_service import SCHEMA

    from fedmb.replay.replay_table import ReplayTable
    from fedmb.replay.served_table import ServedTable
    from fedmb.replay.service import ReplayService
    from fedmb.replay.service_access import Listening

    table = ReplayTable.mapped(folder, SCHEMA, int(capacity), seed=5)
    service = ReplayService({"default": ServedTable(table, has_folder=True)}, Listening(port=int(port)))
    service.start()
    print(service.address, flush=True)
    threading.Event().wait()


def client(address, transport="auto", token=None, roots=None):
    from fedmb.replay.remote import RemoteTable

    return RemoteTable(address, transport=transport, token_file=token, root_certificates=roots)


def actor(address, first, count, *access):
    from replay_service import numbered

    first, count = int(first), int(count)
    with client(address, *access) as table:
        for start in range(first, first + count // 2, 50):
            assert (table.append(numbered(start, 50)) >= 0).all()
        columns = numbered(first + count // 2, count - count // 2)
        for row in zip(*columns.values(), strict=True):
            table.append_row(row)
    print(count)


def learner(address, batches, *access):
    import numpy as np
    from replay_service import is_whole

    with client(address, *access) as table:
        changed = 0
        for _ in range(int(batches)):
            sample = table.sample(64)
            assert is_whole(sample.columns)
            changed += table.reprioritize(sample.ids, np.abs(sample.columns["x"][:, 0]) + 1)
    print(changed)


def started(*arguments):
    """A process of this file, its output in a pipe."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    {"serve": serve, "actor": actor, "learner": learner}[sys.argv[1]](*sys.argv[2:])
