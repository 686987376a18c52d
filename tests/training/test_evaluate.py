import pytest
import torch

from fedmb.tasks.digits import Digits
from fedmb.training.evaluate import evaluate
from fedmb.training.parameters import initial_arrays, load_arrays


def test_figures_do_not_depend_on_the_batch_size():
    task = Digits()
    model = task.build_model()
    load_arrays(model, initial_arrays(task, 0))
    figures = [evaluate(task, model, task.test_rows(), batch_size=size) for size in (1, 7, 64, 1000)]

    assert all(one == pytest.approx(figures[0], rel=1e-6) for one in figures)
    assert set(figures[0]) == {"loss", "accuracy"}


def test_accuracy_counts_rows():
    task = Digits()
    rows = task.test_rows()

    class Oracle(torch.nn.Module):
        def forward(self, image):
            return torch.nn.functional.one_hot(torch.from_numpy(rows["label"]).long()[: len(image)], 10).float()

    assert evaluate(task, Oracle(), rows, batch_size=len(rows["label"]))["accuracy"] == 1.0


def test_the_model_keeps_its_mode():
    task = Digits()
    model = task.build_model().train()
    evaluate(task, model, task.test_rows())

    assert model.training
