"""A process that appends to a table in a folder, killed at any instruction: no acknowledged row lost, none torn.

Each remover's process is killed 4 times; FEDMB_KILLS raises it for `make soak`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(0), pytest.mark.soak]

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("Fifo", "Lifo", "Reservoir", "LowestPriority", "ClassBalanced('label')")
KILLS = max(4, int(os.environ.get("FEDMB_KILLS", "0")) // len(KINDS))
CAPACITY, MOST = 600, 150  # rows of the table, and of an append

PROGRAM = f"""
import json, sys
sys.path[:0] = [{str(ROOT)!r}]
import numpy as np
from fedmb.batch.minibatch import Column
from fedmb.replay import ClassBalanced, Fifo, Lifo, LowestPriority, Prioritized, ReplayTable, Reservoir

folder, remover, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
random = np.random.default_rng(seed)
schema = {{"number": Column("int64"), "body": Column("int64", (2000,)), "label": Column("uint8")}}
remover = eval(remover if "(" in remover else remover + "()")
table = ReplayTable.mapped(folder, schema, {CAPACITY}, sampler=Prioritized(), remover=remover)

def rows(number):
    return {{"number": number, "body": number[:, None] + np.arange(2000), "label": (number % 7).astype(np.uint8)}}

def check(found):
    wanted = rows(found["number"])
    assert all(np.array_equal(found[name], wanted[name]) for name in schema), "a row is torn"

def say(**what):
    print(json.dumps(what), flush=True)

known = table._contents
slots = known.ids.held()
found = known.store.read(slots)
check(found)
appended = table.statistics().appended
say(appended=appended, held=dict(zip(known.ids.ids_of(slots).tolist(), found["number"].tolist())))
while True:
    count = int(random.integers(1, {MOST}))
    priorities = random.random(count) if random.random() < 0.5 else None
    say(ids=table.append(rows(np.arange(appended, appended + count)), priorities=priorities).tolist(), first=appended)
    appended += count
    if random.random() < 0.1:
        sample = table.sample(50)
        check(sample.columns)
        table.reprioritize(sample.ids, random.random(50))
    if random.random() < 0.03:
        table.snapshot()
"""


class Appender:
    """The process, and what it said."""

    def __init__(self, folder: Path, remover: str, seed: int) -> None:
        command = [sys.executable, "-c", PROGRAM, folder, remover, str(seed)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def said(self) -> dict:
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        return json.loads(line)

    def kill(self) -> list[dict]:
        """Everything it had said by then; a line that was cut off was not said."""
        self.process.send_signal(signal.SIGKILL)
        rest = self.process.stdout.read()
        self.process.stdout.close()
        assert self.process.wait() == -signal.SIGKILL
        return [json.loads(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("remover", KINDS)
def test_killed_at_random_points_no_acknowledged_row_is_lost_torn_or_renamed(tmp_path, remover, capsys):
    seed = random.SystemRandom().randrange(1 << 32)
    chance, held, ever, appended, unfinished = random.Random(seed), {}, {}, 0, 0
    for kill in range(KILLS + 1):
        process = Appender(tmp_path, remover, seed + kill)
        opened = process.said()
        now = {int(one): number for one, number in opened["held"].items()}
        lost = held.items() - now.items()
        new = now.items() - held.items()

        # An append that was under way may have given up rows, or be there as a whole; nothing else may differ.
        assert 0 <= opened["appended"] - appended < MOST, f"seed {seed}"
        assert len(lost) < MOST, f"seed {seed}"
        assert all(appended <= number < opened["appended"] for _, number in new), f"seed {seed}"
        assert opened["appended"] > appended or not new, f"seed {seed}"
        assert not {one for one, _ in new} & ever.keys(), f"seed {seed}: an id was given twice"
        assert {one % CAPACITY for one, _ in new} >= {one % CAPACITY for one, _ in lost} or not new, f"seed {seed}"
        unfinished += bool(lost or new)
        held, appended = now, opened["appended"]
        if kill == KILLS:
            process.kill()
            break
        said = [process.said() for _ in range(chance.randrange(1, 40))]
        said += process.kill()
        for one in said:
            assert one["first"] == appended
            by_slot = {name % CAPACITY: (name, number) for name, number in held.items()}
            for place, name in enumerate(one["ids"]):
                if name >= 0:
                    assert ever.setdefault(name, appended + place) == appended + place, f"seed {seed}"
                    by_slot[name % CAPACITY] = name, appended + place
            held = dict(by_slot.values())
            appended += len(one["ids"])
        ever |= held
    with capsys.disabled():
        print(f"\n{remover}: killed {KILLS} times, {unfinished} within an append, {appended} rows")
