import numpy as np
import pytest

from fedmb.aggregation.randomness import Seeded, Unpredictable


@pytest.mark.parametrize("source", [Unpredictable(), Seeded(3)], ids=["unpredictable", "seeded"])
def test_normals_are_standard_normal(source):
    drawn = source.normals(400_001)

    assert drawn.shape == (400_001,)
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(drawn) < 1) == pytest.approx(0.6827, abs=0.005)
    assert np.mean(drawn**4) == pytest.approx(3, abs=0.1)
    assert abs(np.corrcoef(drawn[:200_000], drawn[200_000:400_000])[0, 1]) < 0.01


@pytest.mark.parametrize("source", [Unpredictable(), Seeded(3)], ids=["unpredictable", "seeded"])
def test_uniforms_fill_their_interval(source):
    drawn = source.uniforms(100_000)

    assert 0 <= drawn.min() < 0.001
    assert 0.999 < drawn.max() <= 1
    assert np.mean(drawn < 0.25) == pytest.approx(0.25, abs=0.01)


def test_nobody_can_repeat_what_is_unpredictable():
    one, other = Unpredictable(), Unpredictable()
    one.begin(4)
    other.begin(4)

    assert not np.array_equal(one.normals(8), other.normals(8))


def test_a_seed_repeats_each_round_whatever_came_before():
    one, other = Seeded(3), Seeded(3)
    one.begin(1)
    one.normals(100)
    one.begin(4)
    other.begin(4)

    assert np.array_equal(one.normals(8), other.normals(8))
    assert not np.array_equal(Seeded(4).normals(8), Seeded(3).normals(8))
