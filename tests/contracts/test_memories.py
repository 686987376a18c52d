"""What every memory promises to the blend that draws from it, checked for each of them, killed processes included.

The number of kills is 6 for each memory; FEDMB_KILLS raises it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from memory_worlds import SCHEMA, WINDOW, WORLDS, Driver, columns, loss

from fedmb.errors import AlreadyOwned, NotEnoughData, ShapeError

KILLS = max(6, int(os.environ.get("FEDMB_KILLS", "0")) // 10)
BATCHES = 60
BACK = 6  # batches that can be gone back by: 6 x 6.5 rows are less than the window


@pytest.fixture(params=WORLDS)
def name(request):
    return request.param


@pytest.fixture
def world(name):
    return WORLDS[name]


@pytest.fixture
def whole(world, tmp_path):
    """Of a run that nobody disturbed: what each batch drew, and the position before it."""
    (tmp_path / "whole").mkdir()
    with closing(world.open(tmp_path / "whole")) as memory:
        driver, positions, seen = Driver(memory), [], []
        for _ in range(BATCHES):
            positions.append(json.loads(json.dumps(driver.position())))
            seen.append(driver.batch())
    return positions, seen


def test_it_draws_something_new_each_time_and_the_same_by_number(world, tmp_path):
    with closing(world.open(tmp_path)) as memory:
        driver = Driver(memory)
        for _ in range(20):
            driver.batch()
        one, again, other = (memory.sample(30, draw).columns["x"].tobytes() for draw in (3, 3, 4))

    assert one == again != other


def test_going_back_to_any_recent_batch_and_on_again_draws_the_same(world, whole, tmp_path):
    positions, seen = whole
    with closing(world.open(tmp_path)) as memory:
        driver = Driver(memory)
        for stop in range(BATCHES):
            assert driver.position() == positions[stop]
            assert driver.batch() == seen[stop]
            back = max(0, stop - BACK + 1)
            assert driver.seek(positions[back]) == 0
            for step in range(back, stop + 1):
                assert driver.batch() == seen[step], f"back from {stop} to {back}"


def test_going_on_in_a_new_process_draws_the_same_wherever_the_last_one_stopped(world, whole, tmp_path):
    positions, seen = whole
    done = 0
    for stop in range(1, BATCHES):
        with closing(world.open(tmp_path)) as memory:
            driver = Driver(memory)
            assert driver.seek(positions[done]) == 0
            for step in range(done, stop):
                assert driver.position() == positions[step]
                assert driver.batch() == seen[step]
        done = max(done, stop - BACK + 1)  # the last batches are in the file and in no checkpoint


PROCESS = """
import json, sys
from pathlib import Path
from memory_worlds import WORLDS, Driver

driver = Driver(WORLDS[sys.argv[1]].open(Path(sys.argv[2])))
driver.seek(json.loads(sys.argv[3]))
while True:
    print(json.dumps(driver.position()), flush=True)
    for _ in range(3):
        driver.batch()
"""


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_killed_process_leaves_a_memory_that_goes_on_as_if_nothing_had_happened(name, world, tmp_path):
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    position = {"step": 0, "appended": 0, "losses": ""}
    here = Path(__file__).parent
    for _ in range(KILLS):
        command = [sys.executable, "-c", PROCESS, name, str(tmp_path), json.dumps(position)]
        environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            for _ in range(chance.randrange(1, 40)):
                position = json.loads(process.stdout.readline())
            for _ in range(chance.randrange(30_000)):  # the signal falls anywhere into the batches that follow
                pass
            process.send_signal(signal.SIGKILL)
            told = process.stdout.read().splitlines()
        if told:
            position = json.loads(told[-1])

    (tmp_path / "whole").mkdir()
    with closing(world.open(tmp_path / "whole")) as memory:
        driver = Driver(memory)
        while driver.step < position["step"]:
            driver.batch()
        assert driver.position() == position, f"seed {seed}"
        expected = [driver.batch() for _ in range(20)]
    with closing(world.open(tmp_path)) as memory:
        driver = Driver(memory)
        assert driver.seek(position) == 0, f"seed {seed}"
        assert [driver.batch() for _ in range(20)] == expected, f"seed {seed}"
    assert position["step"] > KILLS


def test_rows_are_drawn_as_often_as_it_is_said(world, tmp_path):
    times, appended = 0, 400
    with closing(world.open(tmp_path)) as memory:
        for first in range(0, appended, 10):
            memory.append(columns(first, first + 10))
            if hasattr(memory, "hear"):
                memory.expect(np.arange(first, first + 10))
                memory.hear(memory.batches - 1, loss(np.arange(first, first + 10)))
        for draw in range(200):
            times = times + np.bincount(memory.sample(50, draw).columns["row"], minlength=appended)
    likely = world.likely(appended)
    labels = columns(0, appended)["label"]
    drawn, expected = (np.bincount(labels, weights) for weights in (times, 10_000 * likely / likely.sum()))

    assert times.sum() == 10_000
    # One memory's rows are fixed: fifty rows, so a class may differ by its share of them, and draws by chance.
    assert np.abs(drawn - expected).max() < 10_000 * 3 * np.sqrt(0.25 / WINDOW)
    assert (times[likely == 0] == 0).all()


def test_what_is_drawn_belongs_to_whoever_drew_it(world, tmp_path):
    with closing(world.open(tmp_path)) as memory:
        driver = Driver(memory)
        for _ in range(12):
            driver.batch()
        shown = columns(memory.appended, memory.appended + 4)
        first = memory.sample(30, 0).columns
        for column in first.values():
            column[:] = 0
        memory.append(shown)
        for column in shown.values():
            column[:] = 0
        again = memory.sample(30, 0).columns

    assert (again["x"].min(axis=1) >= 0).all()
    assert np.array_equal(again["x"], columns(0, 200)["x"][again["row"]])


def test_the_beginning_is_empty_and_can_be_gone_back_to(world, whole, tmp_path):
    positions, seen = whole
    with closing(world.open(tmp_path)) as memory:
        assert len(memory) == memory.appended == 0
        driver = Driver(memory)
        for _ in range(30):
            driver.batch()
        driver.seek(positions[0])

        assert len(memory) == memory.appended == 0
        assert [driver.batch() for _ in range(30)] == seen[:30]


def test_a_memory_has_one_owner(world, tmp_path):
    with closing(world.open(tmp_path)), pytest.raises(AlreadyOwned):
        world.open(tmp_path)


def test_wrong_rows_and_questions_are_refused_and_change_nothing(world, tmp_path):
    with closing(world.open(tmp_path)) as memory:
        with pytest.raises(NotEnoughData):
            memory.sample(3, 0)
        with pytest.raises(ShapeError):
            memory.append({"row": np.arange(3)})
        with pytest.raises(ValueError, match="1 row or more"):
            memory.sample(0, 0)
        with pytest.raises(ValueError, match="0 rows or more"):
            memory.rewind(-1)
        assert memory.appended == 0
        assert dict(memory.schema) == SCHEMA


def test_closing_twice_is_fine(world, tmp_path):
    memory = world.open(tmp_path)
    memory.flush()

    memory.close()
    memory.close()
