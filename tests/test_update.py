import numpy as np
import pytest

from fedmb.errors import ShapeError, StaleUpdate
from fedmb.ledger import Position, Span, StreamPartition
from fedmb.update import Update

P0 = StreamPartition("log", "digits", 0)


def update(client="a", weight=2.0, value=1.0, version=4, **fields):
    arrays = {"w": np.full(3, value)}
    sums = {"units": weight, "loss": weight * value}
    return Update(arrays, weight, version, {client: {"cursor": 1}}, sums=sums, rows={"private": int(weight)}, **fields)


def test_adding_two_clients_gives_sums_and_the_weighted_mean():
    both = update("a", 2.0, 1.0) + update("b", 6.0, 5.0)

    assert both.clients == ("a", "b")
    assert both.weight == 8.0
    assert np.array_equal(both.arrays["w"], np.full(3, 4.0))
    assert both.mean("loss") == 4.0
    assert both.rows == {"private": 8}


def test_scaling_changes_the_say_and_not_the_mean():
    half = update(weight=2.0).scaled(0.5)

    assert half.weight == 1.0
    assert half.mean("loss") == update(weight=2.0).mean("loss")
    assert np.array_equal(half.arrays["w"], update().arrays["w"])


def test_addition_does_not_depend_on_the_order():
    left, right = update("a", 2.0, 0.1), update("b", 3.0, 0.7)

    assert np.array_equal((left + right).arrays["w"], (right + left).arrays["w"])
    assert (left + right).sums == (right + left).sums


def test_one_client_cannot_be_added_twice():
    with pytest.raises(StaleUpdate, match="counts once"):
        update("a") + update("a")


def test_one_stream_partition_cannot_be_added_twice():
    span = {P0: Span(Position(0), Position(5))}

    with pytest.raises(StaleUpdate, match="digits"):
        update("a", spans=span) + update("b", spans=span)


def test_updates_of_different_versions_cannot_be_added():
    with pytest.raises(StaleUpdate, match="4 and 5"):
        update("a", version=4) + update("b", version=5)


def test_updates_of_different_models_cannot_be_added():
    other = Update({"v": np.zeros(3)}, 1.0, 4, {"b": {}})

    with pytest.raises(ShapeError, match="same task"):
        update("a") + other


def test_an_update_that_saw_nothing_has_no_mean():
    assert np.isnan(update(weight=0.0).mean("loss"))


def test_two_updates_without_weight_keep_the_first_model():
    both = update("a", 0.0, 1.0) + update("b", 0.0, 2.0)

    assert np.array_equal(both.arrays["w"], np.ones(3))
