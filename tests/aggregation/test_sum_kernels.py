import numpy as np
import pytest
from stacks import ZERO, same, stacked

from fedmb.aggregation import blockwise, sum_kernels
from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.rule import Mean
from fedmb.update import add_weighted


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_compiled_step_is_numpys_bit_for_bit(dtype):
    random = np.random.default_rng(0)
    values = (random.standard_normal(10_001) * 10.0 ** random.integers(-44, 38, 10_001)).astype(dtype)
    values.flags.writeable = False
    ours, numpys = np.linspace(-1, 1, 10_001), np.linspace(-1, 1, 10_001)
    sum_kernels.add_weighted(ours, values, 1 / 3)
    add_weighted(numpys, values, 1 / 3)

    assert ours.tobytes() == numpys.tobytes()


@pytest.mark.parametrize("count", [1, 3, 4, 9])
@pytest.mark.parametrize(("cuts", "others"), [((), ()), ((1, 700), (1, 700)), ((), (500,))])
def test_models_in_one_pass_are_added_in_their_order(count, cuts, others):
    random = np.random.default_rng(count)
    models = (random.standard_normal((count, 1000)) * 10.0 ** random.integers(-30, 30, (count, 1))).astype(np.float32)
    weights = random.uniform(0.1, 3.0, count).tolist()
    ours, numpys = np.zeros(1000), np.zeros(1000)
    parts = [np.split(one, others if number % 4 == 3 else cuts) for number, one in enumerate(models)]
    sum_kernels.add_all(ours, zip(parts, weights, strict=True))
    for one, weight in zip(models, weights, strict=True):
        add_weighted(numpys, one, weight)

    assert ours.tobytes() == numpys.tobytes()


@pytest.mark.parametrize("clients", [5, 9])
@pytest.mark.parametrize("rule", [Mean(), ClippedMean(norm=3.0)])
def test_rules_give_the_same_bits_with_and_without_it(rule, clients, monkeypatch):
    random = np.random.default_rng(1)
    kinds = {"w": np.float32, "v": np.float64, "h": np.float16, "tiny": np.float32}
    arrays = [
        {name: random.standard_normal(3 if name == "tiny" else 40_001).astype(kind) for name, kind in kinds.items()}
        for _ in range(clients)
    ]
    before = {name: np.zeros_like(array) for name, array in arrays[0].items()}
    plain = rule.combine(stacked(arrays, range(1, clients + 1)), before)
    monkeypatch.setattr(blockwise, "_WORTH_COMPILING", 0)

    for held in (0, 1e9):
        assert same(rule.combine(stacked(arrays, range(1, clients + 1), memory_bytes=held), before), plain)


def test_it_is_never_needed(monkeypatch):
    monkeypatch.setattr(blockwise, "_WORTH_COMPILING", 0)
    monkeypatch.setattr(blockwise.importlib.util, "find_spec", lambda name: None)

    assert blockwise.compiled() is None
    assert np.array_equal(Mean().combine(stacked([ZERO, ZERO]), ZERO)["w"], ZERO["w"])


def test_arrays_that_are_not_aligned_are_summed_too(monkeypatch):
    monkeypatch.setattr(blockwise, "_WORTH_COMPILING", 0)
    odd = np.frombuffer(b"x" + np.arange(8.0).tobytes(), np.float64, offset=1)

    assert not odd.flags.aligned
    assert np.array_equal(Mean().combine(stacked([{"w": odd}, {"w": odd}]), {})["w"], np.arange(8.0))
