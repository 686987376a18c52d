import numpy as np
import pytest
import torch

from fedmb.batch.buckets import Bucketing
from fedmb.batch.minibatch import check_columns
from fedmb.tasks.brackets import KINDS, Brackets
from fedmb.training.microbatch import Split
from fedmb.training.step import TrainStep


def test_every_row_is_balanced_and_padded_at_its_end():
    task = Brackets()
    train, test = task.train_rows(), task.test_rows()

    assert (check_columns(train, task.schema), check_columns(test, task.schema)) == (2000, 400)
    for symbols, mask in zip(train["symbols"], train["symbols_mask"], strict=True):
        still_open = []
        for symbol in symbols[mask]:
            if symbol <= KINDS:
                still_open.append(symbol)
            else:
                assert still_open.pop() + KINDS == symbol
        assert not still_open
        assert not symbols[~mask].any()
        assert (np.sort(mask)[::-1] == mask).all()


def test_labels_tell_short_rows_from_long_ones():
    rows = Brackets().train_rows()
    lengths = [rows["symbols_mask"][rows["length_class"] == label].sum(1) for label in range(10)]

    assert [(int(each.min()), int(each.max())) for each in lengths] == [(4 * n + 2, 4 * n + 4) for n in range(10)]
    assert (Brackets().difficulty(rows) == rows["symbols_mask"].sum(1)).all()


def test_a_rule_that_looks_one_symbol_back_is_right_in_seven_of_ten():
    rows = Brackets().train_rows()
    here, before = rows["symbols"][:, 1:], rows["symbols"][:, :-1]
    closing = here > KINDS
    counts = np.zeros((2 * KINDS + 1, 2 * KINDS + 1))
    np.add.at(counts, (before[closing], here[closing]), 1)

    assert counts.max(1).sum() / counts.sum() == pytest.approx(0.71, abs=0.005)


def tensors(rows):
    return {name: torch.from_numpy(array) for name, array in rows.items()}


def test_padding_changes_no_row():
    task = Brackets()
    model = task.build_model()
    rows = {name: array[:20] for name, array in task.train_rows().items()}
    longest = int(rows["symbols_mask"].sum(1).max())
    cut = {name: array[:, :longest] if array.ndim > 1 else array for name, array in rows.items()}
    ones, others = ((task.forward(model, each), each) for each in (tensors(rows), tensors(cut)))

    assert longest < 40
    assert torch.allclose(task.loss(*ones), task.loss(*others), atol=1e-6)
    assert torch.equal(task.metrics(*ones)["accuracy"], task.metrics(*others)["accuracy"])


def gradient(task, model, batch, split):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    TrainStep(task, model, optimizer, split=split)(batch)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_bucketed_batches_learn_the_mean_over_all_symbols_however_they_are_split():
    task = Brackets()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.build_model().double()
    batch = Bucketing(pool=1).source(task.train_rows(), seed=0, client="a").take(24)
    rows = tensors(batch.columns)
    # The slow reference: each row alone, without padding; the sum over all symbols, divided once.
    total = 0.0
    for symbols, mask in zip(rows["symbols"], rows["symbols_mask"], strict=True):
        alone = {"symbols": symbols[mask][None], "symbols_mask": mask[mask][None]}
        total = total + task.loss(task.forward(model, alone), alone)[0] * int(mask.sum())
    loss = total / int(rows["symbols_mask"].sum())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    for split in (Split.whole(), Split.fixed(5), Split.fixed(1)):
        assert torch.allclose(gradient(task, model, batch, split), expected, rtol=1e-6, atol=1e-9)
