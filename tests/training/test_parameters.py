import numpy as np
import pytest
import torch
from torch import nn

from fedmb.arrays.bfloat16 import BFLOAT16
from fedmb.errors import Diverged, ShapeError
from fedmb.tasks.digits import Digits
from fedmb.training.parameters import arrays_of, check_finite, initial_arrays, load_arrays, shared_arrays


def test_arrays_make_the_round_trip():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_arrays(other, arrays_of(model))

    assert all(
        torch.equal(one, two) for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_arrays_are_copies():
    model = nn.Linear(3, 4)
    arrays = arrays_of(model)
    arrays["weight"][:] = 7

    assert not (model.weight == 7).any()


def test_a_batch_counter_that_was_averaged_to_almost_seven_is_seven():
    model = nn.BatchNorm1d(4)
    arrays = arrays_of(model) | {"num_batches_tracked": np.array(6.999999999999999)}
    load_arrays(model, arrays)

    assert model.num_batches_tracked.item() == 7


def test_initial_models_depend_on_the_seed_alone():
    torch.manual_seed(99)
    first = initial_arrays(Digits(), 1)
    second = initial_arrays(Digits(), 1)
    other = initial_arrays(Digits(), 2)

    assert np.array_equal(first["0.weight"], second["0.weight"])
    assert not np.array_equal(first["0.weight"], other["0.weight"])


def test_a_wrong_shape_is_refused_even_where_it_would_broadcast():
    with pytest.raises(ShapeError):
        load_arrays(nn.Linear(3, 4), {"weight": np.zeros((1, 3), np.float32), "bias": np.zeros(4, np.float32)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(value):
    with pytest.raises(Diverged, match="'w' of client 'site'"):
        check_finite({"n": np.array(1), "w": np.array([0.0, value])}, client="site")


def test_a_bfloat16_model_keeps_its_bits_on_the_way_out_and_in():
    model, other = (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).to(torch.bfloat16) for _ in range(2))
    arrays = arrays_of(model)
    load_arrays(other, arrays)

    assert all(array.dtype == BFLOAT16 for array in arrays.values())
    assert all(torch.equal(one, other.state_dict()[name]) for name, one in model.state_dict().items())
    check_finite(arrays, client="a")
    with torch.no_grad():
        model[0].weight[1, 1] = torch.inf
    with pytest.raises(Diverged):
        check_finite(arrays_of(model), client="a")


def test_dtypes_are_converted_between_a_model_and_its_arrays():
    wide, narrow = nn.Linear(3, 4), nn.Linear(3, 4).to(torch.bfloat16)
    load_arrays(wide, arrays_of(narrow))
    assert torch.equal(wide.weight, narrow.weight.float())

    wide = nn.Linear(3, 4)
    load_arrays(narrow, arrays_of(wide))
    assert torch.equal(narrow.weight, wide.weight.to(torch.bfloat16))


def test_arrays_that_nobody_may_write_are_loaded_without_a_warning(recwarn):
    model = nn.BatchNorm1d(4)
    arrays = arrays_of(model)
    for array in arrays.values():
        array.flags.writeable = False
    load_arrays(model, arrays)

    assert not recwarn.list


def test_arrays_that_are_sent_at_once_need_no_copy():
    model = nn.Linear(3, 4)
    shared_arrays(model)["weight"][:] = 7

    assert (model.weight == 7).all()
