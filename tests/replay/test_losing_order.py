import numpy as np
import pytest

from fedmb.replay.losing_order import LosingOrder


@pytest.mark.parametrize("seed", range(20))
def test_rows_go_as_they_do_in_a_sorted_list(seed):
    chance = np.random.default_rng(seed)
    rows = [(key, place) for place, key in enumerate(chance.random(chance.integers(0, 9)).tolist())]
    order = LosingOrder(np.array([key for key, _ in rows]), np.array([place for _, place in rows], np.int64))

    for place in range(100, 140):
        if chance.random() < 0.5 or not rows:
            rows.append((float(chance.random()), place))
            order.push(*rows[-1])
        assert order.largest == max(rows)[0]
        if chance.random() < 0.6:
            assert order.pop() == max(rows)[1]
            rows.remove(max(rows))
            assert order.largest == max(rows, default=(-np.inf, 0))[0]
