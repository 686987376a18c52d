import json
import math

import pytest

from fedmb.aggregation.privacy_account import epsilon_of
from fedmb.errors import AlreadyOwned, PrivacyExhausted, SettingsError
from fedmb.telemetry.run_directory import locked
from fedmb.training.release_account import FILE, Release, ReleaseAccount

DELTA = 1e-5


def account(path, client="ward", **told):
    return ReleaseAccount(path, client=client, delta=DELTA, **told)


def stream(*spans, noise=1.0):
    named = {f"log/rows[{partition}]": ((start, 0), (stop, 0)) for partition, start, stop in spans}
    return Release(noise, kind="stream", stretches=named)


def passed(number, start, stop, noise=1.0, rows=100):
    return Release(noise, kind="pass", stretches={f"0/{rows}/{number}": ((start,), (stop,))}, rows=rows)


def times(count, noise=1.0):
    return epsilon_of(((noise, 1.0, count),), DELTA)


@pytest.mark.parametrize("noise", [0.5, 0.8, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [10, 1000])
def test_epsilon_is_that_of_dp_accounting_called_plainly(tmp_path, noise, rate, count):
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(noise)
    event = gaussian if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, gaussian)
    plainly = (
        dp_accounting.rdp.RdpAccountant().compose(dp_accounting.SelfComposedDpEvent(event, count)).get_epsilon(DELTA)
    )

    counted = account(tmp_path).count(Release(noise, rate=rate, count=count))

    assert counted == pytest.approx(plainly, rel=1e-3)
    assert account(tmp_path).epsilon == counted


def test_rows_of_a_stream_that_is_learnt_once_are_in_one_release_however_long_it_is(tmp_path):
    told = account(tmp_path)
    releases = [stream((0, 64 * n, 64 * (n + 1)), (1, 8 * n, 8 * n + 8)) for n in range(30)]
    epsilons = {told.count(release) for release in releases}

    assert epsilons == {times(1)}
    assert len(json.loads((tmp_path / FILE).read_text())["stretches"]) == 2


def test_rows_of_a_round_that_is_redone_are_in_two(tmp_path):
    told = account(tmp_path)
    told.count(stream((0, 0, 64)))
    told.count(stream((0, 64, 128)))

    assert told.count(stream((0, 64, 128))) == times(2)
    assert told.count(stream((0, 128, 192))) == times(2)  # those that were redone before remain the worst
    assert told.count(stream((0, 100, 192))) == times(3)


def test_passes_over_a_table_add_up_and_parts_of_one_do_not(tmp_path):
    told = account(tmp_path)

    assert told.count(passed(0, 0, 60)) == times(1)
    assert told.count(passed(0, 60, 100)) == times(1)
    assert told.count(passed(1, 0, 10)) == times(2)
    assert told.count(passed(0, 0, 60)) == times(3)  # the pass that had ended, once more
    assert told.count(passed(1, 10, 100)) == times(3)
    assert json.loads((tmp_path / FILE).read_text())["passes"] == [[1.0, 2]]


def test_two_counts_are_composed_as_one_of_both(tmp_path):
    told = account(tmp_path)
    told.count(Release(1.0, rate=0.1, count=4))

    assert told.count(Release(1.0, rate=0.1, count=6)) == epsilon_of(((1.0, 0.1, 10),), DELTA)


def test_other_noise_and_other_ways_to_draw_rows_are_composed(tmp_path):
    told = account(tmp_path)
    told.count(stream((0, 0, 64)))
    told.count(stream((0, 64, 128), noise=2.0))
    told.count(passed(0, 0, 100, noise=2.0))

    assert told.count(Release(4.0, rate=0.1, count=7)) == epsilon_of(
        ((1.0, 1.0, 1), (2.0, 1.0, 2), (4.0, 0.1, 7)), DELTA
    )


def test_a_budget_ends_before_it_is_passed_and_counts_nothing_more(tmp_path):
    told = account(tmp_path, budget=times(2) + 1e-9)
    told.count(Release(1.0))
    told.check(Release(1.0))
    told.count(Release(1.0))

    for attempt in (told.check, told.count):
        with pytest.raises(
            PrivacyExhausted, match=r"would make epsilon .*, over the .* of privacy.epsilon, it is .* at"
        ):
            attempt(Release(1.0))
    assert account(tmp_path).epsilon == times(2)
    assert account(tmp_path, budget=math.inf).count(Release(1.0)) == times(3)


def test_an_account_of_another_client_or_a_damaged_one_is_never_begun_anew(tmp_path):
    account(tmp_path).count(Release(1.0))

    with pytest.raises(
        SettingsError, match="must be one of client 'bed' that can be read, got form 1 of client 'ward'"
    ):
        account(tmp_path, "bed").count(Release(1.0))
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text()[:-40])
    with pytest.raises(SettingsError, match="bring it back from a copy"):
        account(tmp_path).check(Release(1.0))


def test_two_processes_do_not_count_at_once(tmp_path):
    with locked(tmp_path / "privacy.lock", tmp_path), pytest.raises(AlreadyOwned, match="a privacy account has one"):
        account(tmp_path).count(Release(1.0))
