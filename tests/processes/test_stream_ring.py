"""A daemon and a trainer on one ring, killed at any instruction: no row lost, doubled or torn, the ledger exact.

The number of kills is 40; `make soak` has 1,000 (FEDMB_KILLS).
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from numbered_ring import PARTITIONS, make_ring, stretch

from fedmb.ledger import Ledger, Position

pytestmark = [pytest.mark.timeout(0), pytest.mark.soak]

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("FEDMB_KILLS", "40"))
END = 300 * KILLS  # offset in each partition at which the stream ends
ROWS = 3000  # of the ring: a thirtieth of the stream

HEAD = f"""
import json, os, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests" / "replay")!r}]
import numpy as np
from numbered_ring import PARTITIONS, SCHEMA, feed, learnt, make_ring, position, stretch
from fedmb.errors import NotEnoughData
from fedmb.ledger import Ledger, Position
from fedmb.replay.ring_source import RingSource
folder, generator = sys.argv[1], np.random.default_rng(int(sys.argv[2]))
"""

DAEMON = (
    HEAD
    + f"""
ring = make_ring(folder + "/ring", {ROWS})
while True:
    here = ring.ledger
    left = [index for index, one in enumerate(PARTITIONS) if here.position(one).offset < {END}]
    if not left:
        ring.flush()
        while True:
            print("done", flush=True)
            time.sleep(0.05)
    turn = int(generator.choice(left))
    start = here.position(PARTITIONS[turn])
    count = min(int(generator.integers(1, 300)), len(stretch(turn, start, Position(min({END}, start.offset + 150)))))
    if count <= ring.room():
        if count:
            feed(ring, [(turn, count)])
        else:
            ring.pass_over({{PARTITIONS[turn]: Position({END})}})
        if generator.random() < 0.1:
            ring.flush()
    else:
        time.sleep(0.001)  # as a pump waits for room
        continue
    print(turn, count, flush=True)
"""
)

TRAINER = (
    HEAD
    + """
path = folder + "/checkpoint"
try:
    state = json.load(open(path))
except FileNotFoundError:
    state = {"ledger": {}, "rows": 0, "sum": 0}
ledger, rows, total = Ledger.from_json(state["ledger"]), state["rows"], state["sum"]
source = RingSource(folder + "/ring", SCHEMA, linger_seconds=0, patience_seconds=0.02)
source.seek(position(ledger))
while True:
    try:
        batch = source.take(int(generator.integers(1, 200)))
        ledger = learnt(ledger, batch)  # its rows are exactly those of its span, and none is torn
        rows, total = rows + len(batch), total + int(batch.columns["y"].sum())
        is_stored = generator.random() < 0.3
    except NotEnoughData:
        is_stored = True  # as a round ends that got no more
    if is_stored:
        with open(path + ".new", "w") as file:
            json.dump({"ledger": ledger.to_json(), "rows": rows, "sum": total}, file)
        os.replace(path + ".new", path)
        source.seek(position(ledger))
    print(rows, flush=True)
"""
)


class Program:
    """One of the two in a process of its own, its output in a queue so that it never waits for this process."""

    def __init__(self, source: str, folder: Path, seed: int) -> None:
        command = [sys.executable, "-c", source, folder, str(seed)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: queue.Queue[str] = queue.Queue()
        self.reading = threading.Thread(target=self.read)
        self.reading.start()

    def read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)

    def step(self, lines: int) -> None:
        for _ in range(lines):
            self.lines.get(timeout=60)

    def kill(self) -> None:
        assert self.process.poll() is None, f"ended with {self.process.returncode}"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.reading.join()
        self.process.stdout.close()


def checkpoint(folder: Path) -> dict:
    try:
        return json.loads((folder / "checkpoint").read_text())
    except FileNotFoundError:
        return {"ledger": {}, "rows": 0, "sum": 0}


def test_killed_at_random_points_nothing_is_lost_doubled_or_torn(tmp_path, capsys):
    chance, killed, unfinished = random.Random(0), [0, 0], 0
    expected = [one for index in range(3) for one in stretch(index, Position(0), Position(END))]
    sources = [DAEMON, TRAINER]
    running = [Program(source, tmp_path, 0) for source in sources]
    try:
        while checkpoint(tmp_path)["rows"] < len(expected):
            which = chance.randrange(2) if sum(killed) < KILLS else 1
            running[which].step(chance.randrange(2, 24))  # its start, some appends or takes, and into the next
            if sum(killed) < KILLS:
                running[which].kill()
                killed[which] += 1
                unfinished += checkpoint(tmp_path)["rows"] < len(expected)
                running[which] = Program(sources[which], tmp_path, sum(killed))
    finally:
        for program in running:
            program.kill()

    state, ring = checkpoint(tmp_path), make_ring(tmp_path / "ring", ROWS)
    with capsys.disabled():
        print(
            f"\nkilled: {killed[0]} daemons, {killed[1]} trainers, {unfinished} unfinished; {state['rows']} rows once"
        )
    assert (state["rows"], state["sum"]) == (len(expected), sum(expected))
    assert unfinished >= 0.75 * KILLS
    for one in PARTITIONS:
        assert Ledger.from_json(state["ledger"]).position(one) <= ring.ledger.position(one)
    ring.close()
