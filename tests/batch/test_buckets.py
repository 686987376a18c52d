"""Buckets save padding, lose no row, and do not change what is learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.buckets import Bucketing, Buckets, unpadded
from fedmb.batch.collate import Ragged
from fedmb.errors import SettingsError, ShapeError


def sentences(lengths):
    return {"words": Ragged.of([np.full(length, 1 + row, np.int32) for row, length in enumerate(lengths)])}


def epoch(source, size):
    batches, start = [], source.position()["epoch"]
    while source.position()["epoch"] == start:
        batches.append(source.take(size))
    return batches


def padding_share(batches):
    padded = sum(batch.columns["words_mask"].size for batch in batches)
    return 1 - sum(batch.columns["words_mask"].sum() for batch in batches) / padded


def log_normal_lengths():
    return np.ceil(np.random.default_rng(0).lognormal(3, 0.8, 16_384)).astype(int)


def test_pools_save_most_of_the_padding_and_sorting_all_the_rest():
    rows = sentences(log_normal_lengths())
    shares = [padding_share(epoch(Buckets(rows, pool=pool, seed=0, client=0), 32)) for pool in (1, 32, 512)]

    print("padded share, shuffled / pools of 1024 / sorted:", shares)
    assert 0.65 < shares[0] < 0.85
    assert 0.08 < shares[1] < 0.22
    assert shares[2] < 0.03


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sampled_from([None, 9, 20]),
)
def test_each_row_comes_once_per_epoch_whatever_the_sizes(lengths, sizes, pool, tokens):
    columns = {"row": np.arange(len(lengths))}
    source = Buckets(sentences(lengths), columns, pool=pool, max_tokens=tokens, seed=1, client="a")

    for number in range(2):
        rows, takes = [], 0
        while source.position()["epoch"] == number:
            batch = source.take(sizes[takes % len(sizes)])
            assert 1 <= len(batch) <= sizes[takes % len(sizes)]
            assert tokens is None or batch.columns["words"].size <= max(tokens, len(batch))  # width is 1 at least
            rows += batch.columns["row"].tolist()
            takes += 1
        assert sorted(rows) == list(range(len(lengths)))


def test_rows_columns_masks_and_units_belong_together():
    lengths = [3, 1, 4, 1, 5, 9, 2, 6]
    source = Buckets(sentences(lengths), {"row": np.arange(8)}, pool=2, seed=0, client=0)

    for batch in epoch(source, 3):
        rows = batch.columns["row"]
        wanted = [[1 + row] * lengths[row] for row in rows]
        found = [
            words[mask].tolist()
            for words, mask in zip(batch.columns["words"], batch.columns["words_mask"], strict=True)
        ]
        assert found == wanted
        assert batch.units.tolist() == [lengths[row] for row in rows]
        assert batch.columns["words"].shape[1] == max(lengths[row] for row in rows)


def test_batches_of_a_pool_come_in_random_order_and_differ_between_epochs():
    source = Buckets(sentences(np.arange(1, 257)), pool=8, seed=0, client=0)
    widths = [[batch.columns["words"].shape[1] for batch in epoch(source, 32)] for _ in range(2)]

    assert widths[0] != sorted(widths[0])
    assert widths[0] != widths[1]


def test_pools_are_level_so_that_no_batch_is_tiny():
    source = Buckets(sentences([2] * 1001), pool=10, seed=0, client=0)

    sizes = [len(batch) for batch in epoch(source, 10)]

    assert min(sizes) >= 9


def test_a_token_budget_makes_batches_of_long_rows_small():
    source = Buckets(sentences(log_normal_lengths()), pool=64, max_tokens=4096, seed=0, client=0)
    batches = epoch(source, 256)
    tokens = [batch.columns["words"].size for batch in batches]

    assert max(tokens) <= 4096
    assert len({len(batch) for batch in batches}) > 20
    assert np.median(tokens) > 2500


def gradient(embedding, batch, micro_size):
    """Gradient of sum(units * mean loss of a row's tokens) / sum(units), in parts of `micro_size` rows."""
    embedding.weight.grad, total = None, float(batch.effective_units().sum())
    for start in range(0, len(batch), micro_size):
        part = batch.rows(start, min(start + micro_size, len(batch)))
        mask = torch.from_numpy(part.columns["words_mask"])
        losses = (embedding(torch.from_numpy(part.columns["words"]))[..., 0] - 1) ** 2
        means = (losses * mask).sum(1) / mask.sum(1)
        ((means * torch.from_numpy(part.effective_units())).sum() / total).backward()
    return embedding.weight.grad


def test_padded_batches_have_the_gradient_of_their_unpadded_tokens_for_any_split():
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(40, 1, dtype=torch.float64)
    batch = Buckets(sentences([7, 1, 3, 30, 2, 12]), pool=1, seed=0, client=0).take(6)
    tokens = batch.columns["words"][batch.columns["words_mask"]]
    loss = ((embedding(torch.from_numpy(tokens))[..., 0] - 1) ** 2).mean()
    expected = torch.autograd.grad(loss, embedding.weight)[0]

    assert batch.effective_units().sum() == len(tokens) == 55
    for micro_size in (6, 1, 4):
        assert torch.allclose(gradient(embedding, batch, micro_size), expected, rtol=1e-6, atol=0)


def test_what_buckets_cannot_hold_is_refused():
    with pytest.raises(SettingsError, match="cover the longest row, 9 tokens, got 8"):
        Buckets(sentences([1, 9]), max_tokens=8, seed=0, client=0)
    with pytest.raises(SettingsError, match="1 batch or more, got 0"):
        Buckets(sentences([1]), pool=0, seed=0, client=0)
    with pytest.raises(ShapeError, match="at least one ragged column"):
        Buckets({}, seed=0, client=0)
    with pytest.raises(ShapeError, match="equal length"):
        Buckets(sentences([1, 2]), {"y": np.zeros(3)}, seed=0, client=0)
    with pytest.raises(ShapeError, match="names of their own"):
        Buckets(sentences([1, 2]), {"words_mask": np.zeros(2)}, seed=0, client=0)


@pytest.mark.parametrize(
    "change", [{"start": 40}, {"start": -1}, {"cuts": [[4, 9]]}, {"cuts": [[0, 1]]}, {"cuts": [[4, 0]]}, {"cuts": [4]}]
)
def test_a_position_of_other_rows_is_refused_and_changes_nothing(change):
    source = Buckets(sentences(range(1, 30)), pool=2, seed=0, client=0)
    source.take(4)
    before = source.position()

    with pytest.raises(ValueError, match="a position of buckets must be"):
        source.seek({**before, **change})
    assert source.position() == before


@given(st.lists(st.lists(st.integers(0, 9), max_size=7), min_size=1, max_size=20))
def test_what_was_padded_is_unpadded(rows):
    ragged = Ragged.of([np.array(row, np.int16) for row in rows])
    values, mask = ragged.padded(np.arange(len(rows)), length=7)
    back = unpadded({"x": values, "x_mask": mask}, "x")

    assert back.values.tolist() == ragged.values.tolist()
    assert back.offsets.tolist() == ragged.offsets.tolist()


def padded_table():
    short, long = np.tri(6, 4, dtype=bool), np.ones((6, 3), bool)
    return {"a": short * 1, "a_mask": short, "b": long * 2.0, "b_mask": long, "y": np.arange(6)}


@pytest.mark.parametrize(("by", "units"), [(None, [1, 2, 3, 4, 4, 4]), ("b", [3] * 6)])
def test_a_padded_table_is_sorted_and_weighed_by_the_column_that_is_named(by, units):
    batch = Bucketing(by=by, pool=1).source(padded_table(), seed=0, client="a").take(6)
    order = np.argsort(batch.columns["y"])

    assert batch.units[order].tolist() == units
    assert set(batch.columns) == {"a", "a_mask", "b", "b_mask", "y"}


def test_a_table_that_cannot_be_bucketed_is_refused():
    with pytest.raises(SettingsError, match=r"has none of y; choose rows\.buckets\.by"):
        Bucketing().source({"y": np.arange(3)}, seed=0, client="a")
    with pytest.raises(SettingsError, match="y and y_mask, this table has a, b of"):
        Bucketing(by="y").source(padded_table(), seed=0, client="a")
    with pytest.raises(SettingsError, match="cover the longest row, 4 tokens, got 3"):
        Bucketing(max_tokens=3).source(padded_table(), seed=0, client="a")
    torn = padded_table() | {"a_mask": padded_table()["a_mask"][:, ::-1]}
    with pytest.raises(ShapeError, match="'a' goes on behind it in row 0; shift"):
        Bucketing().source(torn, seed=0, client="a")
