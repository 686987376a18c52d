import sys

import pytest

from fedmb.aggregation.privacy_account import PrivacyAccount, epsilon_of
from fedmb.errors import SettingsError

DELTA = 1e-5


def by_hand(*parts):
    """Composed one round after the other, parts of (noise, rate, rounds), by dp-accounting itself."""
    import dp_accounting

    accountant = dp_accounting.rdp.RdpAccountant()
    for noise, rate, rounds in parts:
        event = dp_accounting.GaussianDpEvent(noise)
        for _ in range(rounds):
            accountant.compose(event if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, event))
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("noise", [0.7, 1.0, 4.0])
@pytest.mark.parametrize(("rate", "rounds"), [(1.0, 1), (1.0, 30), (0.1, 5), (0.5, 12)])
def test_epsilon_is_dp_accountings(noise, rate, rounds):
    account = PrivacyAccount(noise_multiplier=noise, rate=rate, delta=DELTA)
    for _ in range(rounds):
        account.count()

    assert account.epsilon() == pytest.approx(by_hand((noise, rate, rounds)), rel=1e-3)
    assert account.releases == rounds


def test_one_gaussian_release_is_the_known_number():
    # Renyi bound of one release at noise 1: min over orders a of a / 2 + (log(1/delta) + ...) / (a - 1), about 5.0.
    assert 4.5 < epsilon_of(((1.0, 1.0, 1),), DELTA) < 5.5
    assert epsilon_of((), DELTA) == 0.0


def test_it_stops_before_the_budget_and_not_behind_it():
    budget = by_hand((1.0, 1.0, 4)) + 1e-6
    account = PrivacyAccount(noise_multiplier=1.0, rate=1.0, delta=DELTA, budget=budget)
    while not account.exhausted():
        account.count()

    assert account.releases == 4
    assert account.epsilon() <= budget < account.epsilon(1)
    assert "privacy budget: a round more would make epsilon" in account.exhausted()
    assert "after 4 rounds" in account.exhausted()


def test_releases_of_other_settings_are_counted_as_what_they_were():
    first = PrivacyAccount(noise_multiplier=0.7, rate=1.0, delta=DELTA)
    first.count()
    second = PrivacyAccount(noise_multiplier=4.0, rate=0.5, delta=DELTA)
    second.load_state_dict(first.state_dict())
    second.count()

    assert second.epsilon() == pytest.approx(by_hand((0.7, 1.0, 1), (4.0, 0.5, 1)), rel=1e-3)


def test_without_the_library_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    epsilon_of.cache_clear()

    with pytest.raises(SettingsError, match=r"takes dp-accounting, .* pip install 'fedmb\[privacy\]'"):
        epsilon_of(((1.0, 1.0, 1),), DELTA)
