import numpy as np
import pytest

from fedmb.batch.poisson import PoissonSource
from fedmb.batch.rows import Rows
from fedmb.errors import SettingsError

ROWS = 40


def source(seed=0, client="a", rows=ROWS):
    return PoissonSource({"row": np.arange(rows)}, seed=seed, client=client)


def drawn(one, batches=5, size=8):
    return [one.take(size).columns["row"].tolist() for _ in range(batches)]


def test_every_row_comes_with_its_chance_and_by_itself():
    one, batches, rate = source(seed=3), 4000, 8 / ROWS
    seen = np.zeros((batches, ROWS))
    for number in range(batches):
        seen[number, one.take(8).columns["row"]] = 1

    times = seen.sum(0)
    chi_square = float(((times - batches * rate) ** 2 / (batches * rate * (1 - rate))).sum())
    sizes = seen.sum(1)
    together = np.corrcoef(seen.T)[np.triu_indices(ROWS, 1)]
    assert 18 < chi_square < 72  # 40 degrees of freedom: one in 1,000 on each side
    assert sizes.mean() == pytest.approx(8, abs=0.2)
    assert sizes.var() == pytest.approx(ROWS * rate * (1 - rate), rel=0.12)
    assert abs(together).max() < 5 / np.sqrt(batches)


def test_a_batch_says_what_was_to_be_expected_and_may_be_empty():
    one = source(seed=1)
    sizes = [len(batch) for batch in (one.take(2) for _ in range(50))]

    assert 0 in sizes
    assert len(set(sizes)) > 3
    assert one.take(2).expected == one.take(2).counted == 2
    assert one.take(2).columns["row"].dtype == np.arange(1).dtype


def test_more_rows_than_there_are_is_all_of_them():
    batch = source().take(100)

    assert batch.columns["row"].tolist() == list(range(ROWS))
    assert batch.expected == ROWS


def test_seeking_back_draws_the_same_rows_in_another_process_too():
    one = source()
    drawn(one, 3)
    position = one.position()
    wanted = drawn(one)
    other = source()
    other.seek(position)

    assert position == {"drawn": 3}
    assert drawn(other) == wanted
    other.seek({})
    assert drawn(other, 1) == drawn(source(), 1)


def test_another_seed_client_or_key_draws_other_rows():
    own_key = source()
    own_key.rekey(12345678901234567890)

    assert len({str(drawn(one)) for one in (source(), source(seed=1), source(client="b"), own_key)}) == 4


@pytest.mark.parametrize("position", [{"epoch": 0, "cursor": 0}, {"drawn": -1}, {"drawn": 1.5}])
def test_a_position_of_another_source_is_refused(position):
    with pytest.raises(ValueError, match="rows drawn by chance"):
        source().seek(position)


def test_settings_choose_it_and_refuse_what_it_cannot_be():
    chosen = Rows(sampling="poisson").mixed({"t": {"row": np.arange(9)}}, seed=0, client="a")

    assert isinstance(chosen, PoissonSource)
    with pytest.raises(ValueError, match="got sampling poisson and prefetch 2"):
        Rows(sampling="poisson", prefetch=2)
    with pytest.raises(ValueError, match="tail drop"):
        Rows(sampling="poisson", tail="drop")
    with pytest.raises(SettingsError, match="one table, got 2"):
        Rows(sampling="poisson").mixed({"a": {"row": np.arange(9)}, "b": {"row": np.arange(9)}}, seed=0, client="a")
    with pytest.raises(SettingsError, match=r"rows\.sampling needs its rows in a table, got a stream"):
        Rows(sampling="poisson").check_against("stream")
