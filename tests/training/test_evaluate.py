import math

import numpy as np
import pytest
import torch

from fedmb.batch.buckets import Bucketing
from fedmb.errors import ShapeError
from fedmb.tasks.brackets import Brackets
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


def first_model(task):
    model = task.build_model()
    load_arrays(model, initial_arrays(task, 0))
    return model


def test_rows_of_different_lengths_count_by_their_symbols_whatever_the_batch_size():
    task = Brackets()
    model, rows = first_model(task), task.test_rows()
    figures = [evaluate(task, model, rows, batch_size=size) for size in (1, 7, 64, 1000)]
    tensors = {name: torch.from_numpy(array) for name, array in rows.items()}
    with torch.inference_mode():
        outputs = task.forward(model, tensors)
        losses = torch.nn.functional.cross_entropy(
            outputs.flatten(0, 1), tensors["symbols"].long().flatten(), reduction="none"
        )
        of_symbols = losses[tensors["symbols_mask"].flatten()].mean().item()
        of_rows = task.loss(outputs, tensors).mean().item()

    assert all(one == pytest.approx(figures[0], rel=1e-6) for one in figures)
    assert figures[0]["loss"] == pytest.approx(of_symbols, rel=1e-6)
    assert abs(of_rows - of_symbols) > 1e-4 * of_symbols  # the mean of the rows' means is another figure


def test_a_score_weighs_rows_as_training_by_buckets_does():
    task = Brackets()
    rows = task.test_rows()
    source = Bucketing().source(rows, seed=0, client="a")
    trained = sum(float(source.take(100).units.sum()) for _ in range(4))

    assert task.units(rows).sum() == trained


class Weighed(Digits):
    """Digits of which some rows count more than others."""

    def __init__(self, units):
        self.units = units


def test_units_weigh_loss_and_metrics():
    rows = {name: array[:3] for name, array in Digits().test_rows().items()}
    model = first_model(Digits())
    alone = [
        evaluate(Digits(), model, {name: array[row : row + 1] for name, array in rows.items()}) for row in range(3)
    ]
    scored = evaluate(Weighed(lambda columns: [1, 0, 3]), model, rows)

    assert scored == pytest.approx({name: (alone[0][name] + 3 * alone[2][name]) / 4 for name in scored}, rel=1e-6)


def test_a_row_without_a_unit_may_have_no_loss():
    task = Brackets()
    rows = {name: array[:5].copy() for name, array in task.test_rows().items()}
    rows["symbols_mask"][2] = False
    scored = evaluate(task, first_model(task), rows)

    assert math.isfinite(scored["loss"])
    assert scored == evaluate(task, first_model(task), {name: np.delete(a, 2, 0) for name, a in rows.items()})


@pytest.mark.parametrize("units", [[1.0], [1.0, np.nan, 1.0], [1.0, -1.0, 1.0]])
def test_units_that_are_not_one_number_a_row_are_refused(units):
    rows = {name: array[:3] for name, array in Digits().test_rows().items()}

    with pytest.raises(ShapeError, match="one a row"):
        evaluate(Weighed(lambda columns: units), first_model(Digits()), rows)


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
