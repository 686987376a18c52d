import numpy as np
import torch

from fedmb.batch.minibatch import check_columns
from fedmb.tasks.digits import Digits


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
