"""What every class with memory promises (invariant I4), checked for each of them.

To put a class under this contract, add a world to `stateful_worlds.WORLDS`; a class with a `state_dict` that has no
world there fails the last test.
"""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path

import pytest
import torch
from stateful_worlds import WORLDS

from fedmb.training import microbatch

LIBRARY = Path(__file__).resolve().parents[2] / "fedmb"
NUM_STEPS = 9


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(microbatch, "free_bytes", lambda device: 40_000)  # what fits must not depend on this machine
    monkeypatch.setattr(microbatch, "_release", lambda device: None)  # nothing is held, and a collection takes 0.1 s
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(params=WORLDS.values(), ids=WORLDS)
def world(request):
    return request.param


@pytest.fixture(
    params=[world for world in WORLDS.values() if world.copies], ids=[n for n, w in WORLDS.items() if w.copies]
)
def copying(request):
    return request.param


def same(one, other):
    """Equal to the last bit, in type too."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.detach().numpy().tobytes() == other.detach().numpy().tobytes()
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)  # tells -0.0 from 0.0 and finds nan equal to nan


def kept(world, thing):
    return thing.state_dict() if world.copies else copy.deepcopy(thing.state_dict())


def load(world, thing, state):
    thing.load_state_dict(state if world.copies else copy.deepcopy(state))


def driven(world, thing, first=0, last=NUM_STEPS):
    """What is seen after each of the steps `first` to `last`."""
    seen = []
    for step in range(first, last):
        outcome = world.drive(thing, step)
        seen.append(copy.deepcopy((outcome, world.observe(thing))))
    return seen


def test_steps_leave_something_to_remember(world):
    one = world.fresh()
    before = copy.deepcopy(kept(world, one))
    seen = driven(world, one)

    assert same(kept(world, one), before) == world.forgets
    assert world.forgets or not all(same(each, seen[0]) for each in seen)


def test_stopping_after_any_step_and_going_on_in_a_new_object_gives_the_same_bits(world):
    whole = world.fresh()
    seen = driven(world, whole)
    end = copy.deepcopy(kept(world, whole))

    for stop in range(NUM_STEPS + 1):
        one = world.fresh()
        driven(world, one, last=stop)
        state = kept(world, one)
        resumed = world.fresh()
        load(world, resumed, state)
        assert same(kept(world, resumed), state), f"stopped after {stop}"
        assert same(driven(world, resumed, first=stop), seen[stop:]), f"stopped after {stop}"
        assert same(kept(world, resumed), end), f"stopped after {stop}"


def test_asking_for_the_state_changes_nothing(world):
    undisturbed = driven(world, world.fresh())
    one, seen = world.fresh(), []
    for step in range(NUM_STEPS):
        one.state_dict()
        seen += driven(world, one, step, step + 1)

    assert same(seen, undisturbed)


def test_loading_replaces_all_that_was_remembered(world):
    one = world.fresh()
    driven(world, one, last=4)
    state = copy.deepcopy(kept(world, one))
    seen = driven(world, one, first=4)

    load(world, one, state)

    assert same(kept(world, one), state)
    assert same(driven(world, one, first=4), seen)


def test_a_state_is_a_snapshot(copying):
    one = copying.fresh()
    driven(copying, one, last=4)
    state = one.state_dict()
    before = copy.deepcopy(state)

    driven(copying, one, first=4)

    assert same(state, before)


def test_a_loaded_state_is_not_written_to(copying):
    one, other = copying.fresh(), copying.fresh()
    driven(copying, one, last=4)
    state = one.state_dict()
    before = copy.deepcopy(state)
    other.load_state_dict(state)

    driven(copying, other, first=4)

    assert same(state, before)


@pytest.mark.parametrize("world", [w for w in WORLDS.values() if w.json], ids=[n for n, w in WORLDS.items() if w.json])
def test_json_loses_nothing_of_a_state(world):
    one = world.fresh()

    for step in range(NUM_STEPS):
        state = world.json(one.state_dict())
        assert same(json.loads(json.dumps(state, allow_nan=False)), state)
        driven(world, one, step, step + 1)


def classes_with_memory():
    """Names of the classes in fedmb that define `state_dict` or inherit it from torch's optimisers."""
    found = set()
    for path in sorted(LIBRARY.rglob("*.py")):
        module = ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            defines = any(isinstance(part, ast.FunctionDef) and part.name == "state_dict" for part in node.body)
            if (defines and "Protocol" not in bases) or "Optimizer" in bases:
                found.add(f"{module}.{node.name}")
    return found


def test_every_class_with_memory_is_under_this_contract():
    things = [type(world.fresh()) for world in WORLDS.values()]

    assert classes_with_memory() - {f"{each.__module__}.{each.__qualname__}" for each in things} == set()
