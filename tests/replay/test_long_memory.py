"""What is remembered is a fair sample of all that came: of any age, or as many of each class."""

from __future__ import annotations

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, NotEnoughData, SettingsError
from fedmb.replay.long_memory import MOST_GROUPS, LongMemory

SCHEMA = {"row": Column("int64"), "label": Column("uint8"), "x": Column("float32", (2, 2))}
WINDOW = 200


def rows(first: int, stop: int, labels: np.ndarray | int = 0) -> dict[str, np.ndarray]:
    numbers = np.arange(first, stop)
    x = np.broadcast_to(numbers[:, None, None], (len(numbers), 2, 2)).astype(np.float32)
    return {"row": numbers, "label": np.broadcast_to(labels, numbers.shape).astype(np.uint8), "x": x}


def shown(labels: np.ndarray, *, window: int = WINDOW, label: str | None = "label", seed: int = 0, client: str = "a"):
    memory = LongMemory.in_memory(SCHEMA, window, label=label, seed=seed, client=client)
    for first in range(0, len(labels), 16):
        memory.append(rows(first, min(first + 16, len(labels)), labels[first : first + 16]))
    return memory


def kept(memory: LongMemory) -> dict[str, np.ndarray]:
    """Every remembered row once."""
    return memory._rows.gather(memory._sample.slots(np.arange(len(memory))))


def excess(found: np.ndarray, expected: np.ndarray) -> float:
    """How many standard deviations chi-square lies above what chance gives."""
    degrees = len(found) - 1
    return float((((found - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def test_a_reservoir_remembers_rows_of_every_age_alike():
    labels, ages = np.zeros(4000), np.zeros(20)
    for client in range(20):
        memory = shown(labels, label=None, client=str(client))
        ages += np.histogram(kept(memory)["row"], 20, (0, 4000))[0]

    assert ages.sum() == 20 * WINDOW
    assert excess(ages, np.full(20, WINDOW)) < 3


def test_every_row_is_as_likely_as_any_other_to_be_remembered():
    times = np.zeros(60)
    for seed in range(400):
        memory = LongMemory.in_memory({"row": Column("int64")}, 15, seed=seed, client="a")
        for first in range(0, 60, 20):
            memory.append({"row": np.arange(first, first + 20)})
        times[kept(memory)["row"]] += 1

    assert times.sum() == 400 * 15
    # A row is in a sample once or not at all, so its number varies by three quarters of what independent draws would.
    assert excess(100 + (times - 100) / np.sqrt(0.75), np.full(60, 100.0)) < 3


def test_classes_are_level_and_rare_ones_whole_however_skewed_the_stream_is():
    chance = np.random.default_rng(0)
    labels = chance.choice(6, 6000, p=[0.5, 0.25, 0.15, 0.0965, 0.0025, 0.001])
    memory = shown(labels)
    seen, classes = np.bincount(labels), memory.statistics().classes
    level = [classes[one] for one in range(4)]

    assert classes[4] == seen[4]
    assert classes[5] == seen[5]
    assert sum(classes.values()) == WINDOW
    assert max(level) - min(level) <= 1


def test_a_class_is_remembered_by_rows_of_all_its_ages():
    ages = np.zeros(10)
    for client in range(20):
        labels = np.random.default_rng(client).choice(4, 3000, p=[0.7, 0.1, 0.1, 0.1])
        found = kept(shown(labels, client=str(client)))
        of_class = np.flatnonzero(labels == 1)
        ages += np.histogram(np.searchsorted(of_class, found["row"][found["label"] == 1]), 10, (0, len(of_class)))[0]

    assert ages.sum() == 20 * WINDOW / 4
    assert excess(ages, np.full(10, ages.sum() / 10)) < 3


def test_classes_that_left_long_ago_keep_their_share():
    labels = np.concatenate([np.arange(2000) % 5, 5 + np.arange(20_000) % 5])
    memory = shown(labels)

    assert memory.statistics().classes == dict.fromkeys(range(10), WINDOW // 10)


def test_draws_are_uniform_over_what_is_remembered():
    memory = shown(np.arange(3000) % 7)
    times = np.zeros(3000)
    for draw in range(200):
        times += np.bincount(memory.sample(100, draw).columns["row"], minlength=3000)
    remembered = kept(memory)["row"]

    assert times[remembered].sum() == times.sum() == 20_000
    assert excess(times[remembered], np.full(WINDOW, 100.0)) < 3


def test_a_row_comes_back_whole():
    memory = shown(np.arange(3000) % 7)

    batch = memory.sample(50, 0)

    numbers = batch.columns["row"]
    assert np.array_equal(batch.columns["x"], rows(0, 3000)["x"][numbers])
    assert np.array_equal(batch.columns["label"], numbers % 7)
    assert batch.origins == {"replay": 50}
    assert not batch.span


def test_what_is_remembered_does_not_depend_on_how_rows_were_cut():
    labels = np.random.default_rng(1).integers(0, 5, 3000)
    one = shown(labels)
    other = LongMemory.in_memory(SCHEMA, WINDOW, label="label", seed=0, client="a")
    assert other.append(rows(0, 3000, labels)) == range(3000)  # at once, and more than there are slots

    for name, column in kept(one).items():
        assert np.array_equal(column, kept(other)[name])


def test_seeds_and_clients_remember_other_rows():
    labels = np.zeros(2000)
    found = [
        set(kept(shown(labels, seed=seed, client=client))["row"]) for seed, client in ((0, "a"), (1, "a"), (0, "b"))
    ]

    assert len(found[0] & found[1]) < WINDOW / 2
    assert len(found[0] & found[2]) < WINDOW / 2


def test_more_labels_than_shares_share_them():
    memory = shown(np.arange(1000) % 256, window=30)
    schema = {"label": Column("int64")}
    wide = LongMemory.in_memory(schema, 5000, label="label", seed=0, client="a")
    wide.append({"label": np.array([-1, MOST_GROUPS - 1, 3 * MOST_GROUPS - 1, 7])})

    assert len(memory) == 30
    assert max(memory.statistics().classes.values()) <= 2
    assert wide.statistics().classes == {7: 1, MOST_GROUPS - 1: 3}


def test_a_moment_that_cannot_be_put_together_is_told_and_goes_on_as_a_sample(caplog):
    memory = shown(np.zeros(4000), label=None)
    horizon = memory.statistics().horizon

    missing = memory.rewind(horizon // 2)

    left = kept(memory)["row"]
    assert 0 < missing == WINDOW - len(left) < WINDOW
    assert left.max() < horizon // 2 == memory.appended
    assert f"missing={missing}" in caplog.text
    memory.append(rows(horizon // 2, 4000))
    assert set(kept(memory)["row"]) == set(kept(shown(np.zeros(4000), label=None))["row"])


def test_a_new_memory_goes_on_from_the_number_that_it_is_told_and_says_what_it_lacks(caplog):
    memory = LongMemory.in_memory(SCHEMA, WINDOW, seed=0, client="a")

    assert memory.rewind(5000) == WINDOW
    assert memory.append(rows(5000, 5100)) == range(5000, 5100)
    assert len(memory) == 100
    assert memory.rewind(5050) == 0
    assert len(memory) == 50
    assert "missing=200" in caplog.text


def test_the_beginning_can_always_be_gone_back_to():
    memory = shown(np.arange(4000) % 3)
    first = kept(memory)

    assert memory.rewind(0) == 0
    assert len(memory) == 0
    memory.append(rows(0, 4000, np.arange(4000) % 3))
    for name, column in kept(memory).items():
        assert np.array_equal(column, first[name])


def test_a_mapped_memory_comes_back_as_it_was_closed(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, 3000)
    one = LongMemory.mapped(tmp_path / "m", SCHEMA, WINDOW, label="label", seed=0, client="a")
    one.append(rows(0, 3000, labels))
    before, statistics = kept(one), one.statistics()
    one.flush()
    one.close()
    one.close()

    again = LongMemory.mapped(tmp_path / "m", dict(reversed(SCHEMA.items())), WINDOW, label="label", seed=0, client="a")

    assert again.statistics() == statistics
    for name, column in kept(again).items():
        assert np.array_equal(column, before[name])
    again.close()


def test_a_mapped_memory_has_one_owner_and_one_purpose(tmp_path):
    one = LongMemory.mapped(tmp_path / "m", SCHEMA, WINDOW, label="label", seed=0, client="a")

    with pytest.raises(AlreadyOwned):
        LongMemory.mapped(tmp_path / "m", SCHEMA, WINDOW, label="label", seed=0, client="a")
    one.close()
    for window, label in ((WINDOW, "row"), (WINDOW, None), (WINDOW + 1, "label")):
        with pytest.raises(SettingsError, match="must fit its settings"):
            LongMemory.mapped(tmp_path / "m", SCHEMA, window, label=label, seed=0, client="a")


def test_what_contradicts_itself_is_refused():
    with pytest.raises(SettingsError, match="window must be 1"):
        LongMemory.in_memory(SCHEMA, 0, seed=0, client="a")
    with pytest.raises(SettingsError, match="seed must be 0"):
        LongMemory.in_memory(SCHEMA, 9, seed=-1, client="a")
    for label in ("x", "colour"):
        with pytest.raises(SettingsError, match="column of single integers"):
            LongMemory.in_memory(SCHEMA, 9, label=label, seed=0, client="a")
    memory = LongMemory.in_memory(SCHEMA, 9, seed=0, client="a")
    with pytest.raises(NotEnoughData, match="append some first"):
        memory.sample(1, 0)
    with pytest.raises(ValueError, match="1 row or more"):
        memory.sample(0, 0)
    with pytest.raises(ValueError, match="0 rows or more"):
        memory.rewind(-1)
