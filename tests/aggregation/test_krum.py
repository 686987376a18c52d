import numpy as np
import pytest
from stacks import ZERO, models, same, stacked, whole

from fedmb.aggregation.krum import MultiKrum, krum
from fedmb.errors import NotEnoughData, SettingsError


def scores(arrays, bad):
    distances = ((whole(arrays)[:, None] - whole(arrays)[None]) ** 2).sum(axis=2)
    return np.sort(distances, axis=1)[:, 1 : len(arrays) - bad - 1].sum(axis=1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("count", "bad"), [(5, 1), (9, 3), (12, 2)])
def test_krum_is_the_client_of_lowest_score(count, bad, seed):
    arrays = models(count, seed)
    best = arrays[np.argmin(scores(arrays, bad))]

    assert same(krum(bad).combine(stacked(arrays), ZERO), best)


@pytest.mark.parametrize("chosen", [None, 2, 5])
def test_multi_krum_is_the_mean_of_the_clients_of_lowest_score(chosen):
    arrays, bad = models(10, 3), 2
    best = np.argsort(scores(arrays, bad))[: chosen or 8]

    found = MultiKrum(bad, chosen).combine(stacked(arrays), ZERO)
    assert np.allclose(found["w"], np.mean([arrays[k]["w"] for k in best], axis=0, dtype=np.float64), atol=1e-6)


def test_what_all_clients_have_in_common_does_not_hide_their_differences():
    arrays = [{"w": np.float64(1e8) + one["w"] * 1e-3} for one in models(9, 5, np.float64)]
    moved = [{"w": one["w"]} for one in models(9, 5, np.float64)]

    befores = ({"w": np.full((7, 3), 1e8)}, {"w": np.zeros((7, 3))})
    choices = [MultiKrum(2, 3).combine(stacked(s), b)["w"] for s, b in zip((arrays, moved), befores, strict=True)]
    assert np.allclose((choices[0] - 1e8) * 1e3, choices[1], atol=1e-3)


def test_bad_clients_that_were_refused_widen_the_choice():
    arrays = models(7)
    expected = MultiKrum(1).combine(stacked(arrays), ZERO)

    assert same(MultiKrum(2).combine(stacked(arrays), ZERO, refused=1), expected)


def test_integers_come_from_the_heaviest_of_the_chosen():
    arrays = [{"w": np.full(4, value), "n": np.array(k)} for k, value in enumerate([0.0, 0.1, 0.2, 0.1, 99.0])]
    found = MultiKrum(1, 4).combine(stacked(arrays, [1, 2, 5, 3, 100]), arrays[0])

    assert found["n"] == 2


def test_clients_of_one_score_are_taken_by_name():
    arrays = [{"w": np.zeros(3), "n": np.array(k)} for k in range(6)]

    assert krum(1).combine(stacked(arrays), arrays[0])["n"] == 0


def far(arrays, *clients, times=50.0):
    return [{"w": one["w"] * times if k in clients else one["w"]} for k, one in enumerate(arrays)]


@pytest.mark.parametrize("odd", [(), (4,), (1, 7)])
def test_of_those_that_may_be_bad_only_who_is_clearly_odd_is_left_out(odd):
    arrays = far(models(10, 3), *odd)
    honest = [one["w"] for k, one in enumerate(arrays) if k not in odd]

    found = MultiKrum(2, odd_medians=4.0).combine(stacked(arrays), {"w": ZERO["w"]})
    assert np.allclose(found["w"], np.mean(honest, axis=0, dtype=np.float64), atol=1e-6)


def test_no_more_are_left_out_than_may_be_bad():
    arrays = far(models(10, 3), 1, 4, 7)

    found = MultiKrum(2, odd_medians=4.0).combine(stacked(arrays), {"w": ZERO["w"]})
    assert same(found, MultiKrum(2).combine(stacked(arrays), {"w": ZERO["w"]}))


@pytest.mark.parametrize(("odd", "bad_left"), [((), 2), ((4,), 1), ((1, 7), 0)])
def test_those_that_stay_are_mixed_with_their_nearest(odd, bad_left):
    arrays = far(models(10, 5), *odd)
    stay = np.array([one["w"].ravel() for k, one in enumerate(arrays) if k not in odd], np.float64)
    mixed = []
    for one in stay:
        nearest = np.argsort(((stay - one) ** 2).sum(axis=1))[: len(stay) - bad_left]
        mixed.append(0.6 * one + 0.4 * stay[nearest].mean(axis=0))

    found = MultiKrum(2, odd_medians=4.0, mixing=0.4).combine(stacked(arrays), {"w": ZERO["w"]})
    assert np.allclose(found["w"].ravel(), np.mean(mixed, axis=0), atol=1e-6)


def test_too_few_updates_keep_the_previous_model():
    with pytest.raises(NotEnoughData, match=r"at least 7 updates, got 6; keep the previous model .*bad_clients"):
        MultiKrum(2).combine(stacked(models(6)), ZERO)
    with pytest.raises(NotEnoughData, match="at least 8 updates, got 7"):
        MultiKrum(2, chosen=8).combine(stacked(models(7)), ZERO)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(SettingsError, match="at least 1 bad client, got 0"):
        krum(0)
    with pytest.raises(SettingsError, match="choose at least 1 client, got 0"):
        MultiKrum(1, chosen=0)
    with pytest.raises(SettingsError, match="beyond more than 1 median score, got 1"):
        MultiKrum(1, odd_medians=1)
    with pytest.raises(SettingsError, match="got chosen 3 and odd_medians 2"):
        MultiKrum(1, chosen=3, odd_medians=2)
    with pytest.raises(SettingsError, match=r"a share, 0 to 1, got 1\.5"):
        MultiKrum(1, odd_medians=2, mixing=1.5)
    with pytest.raises(SettingsError, match=r"got mixing 0\.5 without"):
        MultiKrum(1, mixing=0.5)


@pytest.mark.parametrize("rule", [MultiKrum(2), MultiKrum(2, odd_medians=3.0, mixing=0.3)])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_client_that_is_far_beyond_numbers_is_nobodys_neighbour(value, rule):
    arrays = [{"w": one["w"]} for one in models(7, 2, np.float64)]
    arrays[3] = {"w": np.full((7, 3), value)}
    found = rule.combine(stacked(arrays), {"w": np.zeros((7, 3))})

    assert np.abs(found["w"]).max() < 5
