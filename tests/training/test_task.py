import numpy as np
import pytest
import torch

from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import SettingsError
from fedmb.tasks.digits import Digits
from fedmb.training.task import Task, TaskWithData, load_task, tensors


def test_a_task_is_found_by_its_name():
    task = load_task("fedmb.tasks.digits:Digits")

    assert isinstance(task, Task)
    assert isinstance(task, TaskWithData)
    assert isinstance(task, Digits)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digits", "written module:Class"),
        ("no.such.module:Task", "must be importable"),
        ("fedmb.tasks.digits:Missing", "must be importable"),
        ("collections:OrderedDict", "lacks"),
    ],
)
def test_a_name_that_is_no_task_says_what_one_looks_like(name, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load_task(name)


def test_read_only_columns_are_copied_before_torch_sees_them():
    array = np.arange(4.0)
    array.flags.writeable = False
    rows = tensors(MiniBatch({"x": array}), torch.device("cpu"))
    rows["x"] += 1

    assert array[0] == 0


def test_columns_that_are_tensors_already_stay_where_they_are():
    column = torch.arange(3.0)

    rows = tensors(MiniBatch({"x": column}), torch.device("cpu"))

    assert rows["x"] is column
