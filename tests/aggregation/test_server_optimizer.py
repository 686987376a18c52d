import math

import numpy as np
import pytest

from fedmb.aggregation.directions import Adagrad, Adam, Momentum, Yogi
from fedmb.aggregation.server_optimizer import Stepping
from fedmb.arrays.bfloat16 import BFLOAT16, rounded, widened
from fedmb.errors import Diverged, SettingsError

KINDS = {"fedavgm": Momentum(0.9), "fedadam": Adam(), "fedyogi": Yogi(), "fedadagrad": Adagrad()}
ROUNDS = 6


def model(step, dtype=np.float32):
    random = np.random.default_rng(step)
    return {
        "w": random.standard_normal((4, 3)).astype(dtype),
        "running_var": np.abs(random.standard_normal(3)).astype(dtype),
        "seen": np.array(step),
    }


def slow(kind, before, combined, memory, rate, tau=1e-3):
    """One element's step, as the papers write it, in Python's floats."""
    change = combined - before
    if kind == "fedavgm":
        memory["m"] = 0.9 * memory.get("m", 0.0) + change
        return before + rate * memory["m"]
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * change if kind != "fedadagrad" else change
    v = memory.get("v", tau**2)
    if kind == "fedadam":
        memory["v"] = 0.99 * v + 0.01 * change**2
    elif kind == "fedyogi":
        memory["v"] = v - 0.01 * change**2 * np.sign(v - change**2)
    else:
        memory["v"] = v + change**2
    return before + rate * memory["m"] / (math.sqrt(memory["v"]) + tau)


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_the_slow_reference_for_several_rounds(kind):
    optimizer = Stepping(KINDS[kind], rate=0.3, parameters={"w"})
    memories, at, reference = [{} for _ in range(12)], model(99, np.float64), model(99, np.float64)["w"].ravel()
    for step in range(ROUNDS):
        combined = model(step, np.float64)
        at = optimizer.step(at, combined)
        reference = [
            slow(kind, old, new, memory, 0.3)
            for old, new, memory in zip(reference, combined["w"].ravel(), memories, strict=True)
        ]

        assert np.allclose(at["w"].ravel(), reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_parameter_is_what_the_rule_made_of_it(kind):
    optimizer, at = Stepping(KINDS[kind], rate=0.3, parameters={"w"}), model(99)
    for step in range(ROUNDS):
        combined = model(step)
        at = optimizer.step(at, combined)

        assert np.array_equal(at["running_var"], combined["running_var"])
        assert at["seen"] == combined["seen"]
        assert not np.array_equal(at["w"], combined["w"])
    assert {key.rpartition("/")[2] for key in optimizer.state_dict()} == {"w"}


def test_whole_numbers_never_step_even_where_nobody_says_what_is_a_parameter():
    optimizer = Stepping(Momentum(0.9), rate=0.5)
    at = optimizer.step(model(99), model(0))

    assert at["seen"].dtype == model(0)["seen"].dtype
    assert at["seen"] == 0
    assert not np.array_equal(at["running_var"], model(0)["running_var"])


def test_a_rate_of_one_without_momentum_takes_the_rules_answer():
    optimizer, at = Stepping(Momentum(0.0), rate=1.0), model(99, np.float64)
    for step in range(3):
        at = optimizer.step(at, model(step, np.float64))

        assert np.allclose(at["w"], model(step, np.float64)["w"], rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_step_in_float32_and_are_rounded_once(kind):
    short = {"w": rounded(model(99)["w"])}
    wide = {"w": widened(short["w"])}
    optimizers = Stepping(KINDS[kind], rate=0.3), Stepping(KINDS[kind], rate=0.3)
    for step in range(3):
        combined = {"w": rounded(model(step)["w"])}
        after = optimizers[0].step(short, combined)
        expected = optimizers[1].step(wide, {"w": widened(combined["w"])})

        assert after["w"].dtype == BFLOAT16
        assert after["w"].tobytes() == rounded(expected["w"]).tobytes()
    assert all(array.dtype == np.float32 for array in optimizers[0].state_dict().values())


def test_a_step_beyond_numbers_ends_the_run():
    optimizer = Stepping(Momentum(0.0), rate=1e38)

    with pytest.raises(Diverged, match=r"'w' did not after the server's step; lower aggregation.optimizer.rate"):
        optimizer.step(model(99), {**model(0), "w": model(0)["w"] * np.float32(1e3)})


def test_another_optimisers_memory_is_refused():
    optimizer = Stepping(Momentum(0.9), rate=1.0)
    optimizer.step(model(99), model(0))

    with pytest.raises(SettingsError, match="keeps its server optimiser, got Adam for a checkpoint with 'm'"):
        Stepping(Adam(), rate=0.1).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Stepping(Momentum(), rate=0.0), "rate must be above 0 and finite, got 0"),
        (lambda: Stepping(Momentum(), rate=math.inf), "rate must be above 0 and finite, got inf"),
        (lambda: Momentum(1.0), r"momentum must be at least 0 and below 1, got 1\.0"),
        (lambda: Adam((0.9, 1.0)), r"betas must be at least 0 and below 1, got 1\.0"),
        (lambda: Yogi(tau=0.0), "tau must be above 0 and finite, got 0"),
        (lambda: Adagrad(tau=-1.0), "tau must be above 0 and finite, got -1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(make, sentence):
    with pytest.raises(SettingsError, match=sentence):
        make()
