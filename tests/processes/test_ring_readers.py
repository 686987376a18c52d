"""One process writes a ring at full speed, others read it, and any of them may be killed: no torn row is ever seen."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
from telling_rows import METER, PLAIN, TEXTS, count_torn, ledger, rows

from fedmb.errors import NotEnoughData
from fedmb.replay.ring import Ring
from fedmb.replay.ring_view import RingView

CAPACITY = 512  # little: the writer is around it within milliseconds, and overtakes readers all the time
FORK = multiprocessing.get_context("fork")


def write(path, schema, layout, seed):
    """Append at full speed, for ever."""
    chance = random.Random(seed)
    ring = Ring.mapped(path, schema, CAPACITY, layout=layout)
    while True:
        first, count = ring.appended, chance.choice([1, 7, 64])
        if "text" not in schema and count == 1:
            ring.append_row([column[0] for column in rows(first, first + 1).values()])
            continue
        ring.append(rows(first, first + count, schema), ledger=ledger(first + count))


def read(path, draws, seed, answers):
    """Draw and gather, and tell what was found."""
    generator, refused, gathered, torn = np.random.default_rng(seed), 0, 0, 0
    with RingView.open(path) as view:
        for draw in range(draws):
            sample = view.sample(64, generator)
            torn += count_torn(sample.ids, sample.columns)
            kept, behind = view.state()
            torn += behind.position(METER).offset > kept.stop  # single rows come without a ledger
            numbers = np.arange(kept.start, kept.stop)[:: 1 + draw % 40]
            try:
                torn += count_torn(numbers, view.gather(numbers))
                gathered += len(numbers)
            except NotEnoughData:
                refused += 1
        answers.put((torn, gathered, refused, view.redrawn))


def started(target, *arguments):
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def opened(path):
    while True:
        try:
            return RingView.open(path)
        except (FileNotFoundError, NotEnoughData):
            os.sched_yield()


def wait_until(view, appended, writer):
    while view.appended < appended:
        assert writer.is_alive()
        os.sched_yield()


@pytest.fixture
def running():
    """Processes that end with the test."""
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("schema", [PLAIN, TEXTS], ids=["plain", "texts"])
def test_three_readers_of_a_running_writer_see_whole_rows_only(tmp_path, running, schema, layout):
    path, answers = tmp_path / "ring", FORK.Queue()
    running.append(started(write, path, schema, layout, 0))
    with opened(path) as view:
        wait_until(view, 2 * CAPACITY, running[0])
        before = view.appended
    running += [started(read, path, 400, seed, answers) for seed in range(3)]

    found = np.array([answers.get(timeout=200) for _ in range(3)])

    torn, gathered, refused, redrawn = found.sum(0).tolist()
    with RingView.open(path) as view:
        print(f"{view.appended - before} rows written, {gathered=} {refused=} {redrawn=}")
        assert view.appended > before
    assert torn == 0
    assert gathered > 0


@pytest.mark.parametrize("schema", [PLAIN, TEXTS], ids=["plain", "texts"])
def test_a_writer_killed_anywhere_leaves_rows_and_ledger_that_agree(tmp_path, running, schema):
    path, chance, written = tmp_path / "ring", random.Random(0), 0
    for turn in range(20):
        layout = "auto" if turn else chance.choice(["rows", "columns"])
        running.append(started(write, path, schema, layout, turn))
        with opened(path) as view:
            wait_until(view, written + chance.randrange(1, 3000), running[-1])
        os.kill(running[-1].pid, signal.SIGKILL)
        running[-1].join()

        ring = Ring.mapped(path, schema, CAPACITY)
        numbers = np.array(ring.kept, np.int64)
        assert count_torn(numbers, ring.gather(numbers)) == 0
        assert ring.appended > written
        offset = ring.ledger.position(METER).offset
        assert offset <= ring.appended
        assert offset == ring.appended or "text" not in schema  # single plain rows come without a ledger
        written = ring.appended
        ring.close()
