import numpy as np
import pytest
import torch

from fedmb.batch.minibatch import check_columns
from fedmb.errors import SettingsError
from fedmb.tasks.digits import Digits, ShiftedDigits


def test_all_1797_digits_are_there_and_no_test_row_is_trained_on():
    task = Digits()
    train, test = task.train_rows(), task.test_rows()

    assert check_columns(train, task.schema) + check_columns(test, task.schema) == 1797
    assert np.bincount(np.concatenate([train["label"], test["label"]])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip  # class counts published with the data set


def test_split_is_the_same_in_every_process():
    assert np.array_equal(Digits().test_rows()["label"], Digits().test_rows()["label"])


def test_loss_and_metrics_have_one_value_an_example():
    task = Digits()
    rows = {name: torch.from_numpy(array[:5]) for name, array in task.test_rows().items()}
    outputs = task.forward(task.build_model(), rows)

    assert task.loss(outputs, rows).shape == (5,)
    assert task.metrics(outputs, rows)["accuracy"].shape == (5,)


def test_an_image_far_from_its_class_is_difficult():
    task = Digits()
    rows = {name: array.copy() for name, array in task.train_rows().items()}
    odd = int(np.flatnonzero(rows["label"] == 1)[0])
    rows["image"][odd] = 16 - rows["image"][odd]
    scores = task.difficulty(rows)

    assert scores.shape == (len(rows["label"]),)
    assert scores.argmax() == odd


def test_shifted_digits_are_every_digit_in_five_places():
    shifted, images = ShiftedDigits(pixels=1), Digits().train_rows()["image"].reshape(-1, 8, 8)

    assert len(shifted) == 5 * len(images)
    middle, down, up, right, left = (shifted[5 * 7 + direction][0].reshape(8, 8) for direction in range(5))
    assert np.array_equal(middle, images[7])
    assert np.array_equal(down[1:], images[7][:-1])
    assert np.array_equal(up[:-1], images[7][1:])
    assert np.array_equal(right[:, 1:], images[7][:, :-1])
    assert np.array_equal(left[:, :-1], images[7][:, 1:])
    assert {shifted[5 * 7 + direction][1] for direction in range(5)} == {int(Digits().train_rows()["label"][7])}


def test_digits_do_not_move_out_of_sight():
    with pytest.raises(SettingsError, match="0 to 7 pixels, got 8"):
        ShiftedDigits(pixels=8)
    with pytest.raises(IndexError):
        ShiftedDigits()[5 * 1437]
