import numpy as np
import pytest
from stacks import ZERO, models, same, stacked

from fedmb.aggregation.rule import Mean
from fedmb.aggregation.stack import Stack
from fedmb.errors import ShapeError, StaleUpdate


def test_a_broadcastable_shape_is_refused():
    stack = stacked([{"w": np.zeros((4, 3))}])

    with pytest.raises(ShapeError, match=r"shape \(4, 3\), got \(1, 3\)"):
        stack.put("b", {"w": np.zeros((1, 3))}, 1.0)


def test_another_dtype_is_refused():
    with pytest.raises(ShapeError, match="dtype float64, got float32"):
        stacked([{"w": np.zeros(3)}]).put("b", {"w": np.zeros(3, np.float32)}, 1.0)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match="finite and not negative"):
        Stack().put("a", {"w": np.zeros(2)}, weight)


def test_a_client_counts_once():
    with pytest.raises(StaleUpdate, match="'client-0000' twice"):
        stacked(models(1)).put("client-0000", models(1)[0], 1.0)


def test_clients_stand_in_the_order_of_their_names_with_their_weights():
    stack = stacked(models(4), [4, 3, 2, 1], order=[2, 0, 3, 1])

    assert stack.clients == tuple(f"client-{k:04d}" for k in range(4))
    assert stack.weights.tolist() == [4, 3, 2, 1]
    assert len(stack) == 4
    assert "client-0002" in stack


def test_what_does_not_fit_into_memory_waits_in_a_file_and_combines_to_the_same_bits(tmp_path):
    arrays, weights = models(6), [1, 2, 3, 4, 5, 6]
    one = sum(array.nbytes for array in arrays[0].values())
    in_memory, in_file = stacked(arrays, weights), stacked(arrays, weights, memory_bytes=2 * one, directory=tmp_path)

    assert in_memory.filed_bytes == 0
    assert in_file.filed_bytes >= 4 * one
    assert not list(tmp_path.iterdir())  # the file has no name
    assert same(Mean().combine(in_memory, ZERO), Mean().combine(in_file, ZERO))


def test_a_closed_stack_may_be_filled_anew():
    stack = stacked(models(2), memory_bytes=0)
    stack.close()
    stack.put("a", {"v": np.ones(3)}, 1.0)

    assert stack.clients == ("a",)
    assert np.array_equal(Mean().combine(stack, {})["v"], np.ones(3))


def test_what_others_hold_in_memory_anyway_is_not_written_to_the_file():
    stack = Stack(memory_bytes=0)
    for number, model in enumerate(models(3)):
        stack.put(f"client-{number}", model, 1.0, is_held=True)

    assert stack.filed_bytes == 0
