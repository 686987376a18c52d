import numpy as np
import pytest

from fedmb.aggregation.stack import Stack
from fedmb.federation.round_figures import across_clients, alarms_of, monitored, summed
from fedmb.update import Update

BEFORE = {"w": np.full(400, 2.0), "seen": np.array(7)}


def update(client, gradient, *, rows=100, rate=0.5, trace=None, **sums):
    arrays = {"w": BEFORE["w"] - rate * gradient, "seen": np.array(9)}
    known = {"units": float(rows), "steps": 4.0, "rate": rate, "skipped": 0.0, **sums}
    if trace is not None:
        known["trace_units"] = trace * rows
    return Update(arrays, float(rows), 0, {client: {}}, sums=known, rows={"private": rows})


def stacked(updates):
    stack = Stack()
    for one in updates:
        stack.put(", ".join(one.clients), one.arrays, one.weight)
    return stack


def figures_of(updates):
    return monitored(updates, BEFORE, BEFORE, stacked(updates))


def across(updates):
    return across_clients(updates, BEFORE, stacked(updates))


def test_rows_and_sums_are_added_over_clients():
    rows, sums = summed([update("a", 0.0), update("b", 0.0, rows=50)])

    assert rows == {"private": 150}
    assert sums["units"] == 150.0


def test_means_are_sums_divided_once():
    clients = [
        update("a", 0.0, gradient_norm=8.0, seconds=1.0, wait_seconds=0.5),
        update("b", 0.0, gradient_norm=4.0, seconds=3.0, wait_seconds=0.5),
    ]
    figures = figures_of(clients)

    assert figures["gradient_norm"] == 12.0 / 8.0
    assert figures["wait_share"] == 0.25


def test_scores_of_streams_are_divided_once_over_clients_and_absent_without_a_stream():
    one = update("a", 0.0, prequential_units=30.0, prequential_loss=30.0, fading_units=2.0, fading_loss=1.0)
    other = update("b", 0.0, prequential_units=10.0, prequential_loss=50.0, fading_units=2.0, fading_loss=2.0)
    figures = figures_of([one, other, update("table", 0.0)])

    assert figures["prequential_loss"] == 80.0 / 40.0
    assert figures["fading_loss"] == 3.0 / 4.0
    assert not any("units" in name for name in figures)
    assert not any("prequential" in name for name in figures_of([update("table", 0.0)]))


def test_what_was_said_before_late_labels_stands_beside_what_would_be_said_by_now():
    late = {"delayed_prequential_units": 10.0, "delayed_prequential_loss": 40.0, "labels_waiting": 3.0}
    one = update("a", 0.0, prequential_units=10.0, prequential_loss=20.0, **late)
    other = update("b", 0.0, prequential_units=30.0, prequential_loss=20.0, labels_waiting=2.0)
    figures = figures_of([one, other])

    assert (figures["prequential_loss"], figures["delayed_prequential_loss"]) == (1.0, 4.0)
    assert figures["labels_waiting"] == 5.0
    assert not any("units" in name for name in figures)


def test_alarms_are_named_by_client():
    clients = [update("a", 0.0, alarms=2.0), update("b", 0.0, alarms=0.0), update("table", 0.0)]

    assert alarms_of(clients) == {"a": 2}


def test_the_update_ratio_is_the_change_over_the_weights_and_counters_do_not_count():
    after = {"w": np.full(400, 2.5), "seen": np.array(99)}

    assert monitored([], BEFORE, after, Stack())["update_ratio"] == pytest.approx(0.25)


def test_energy_that_one_client_does_not_know_is_absent_for_all():
    both = [update("a", 0.0, joules_measured=5.0), update("b", 0.0, joules_measured=2.0)]

    assert figures_of(both)["joules_measured"] == 7.0
    assert "joules_measured" not in figures_of([*both, update("c", 0.0)])


def clients_of(spread, count=40, rows=100, seed=1):
    """Clients whose true gradients differ by `spread`, each seen through the noise of its own rows."""
    random = np.random.default_rng(seed)
    true = np.full(400, 0.1)  # |G|^2 = 4
    updates = []
    for number in range(count):
        own = true + random.standard_normal(400) * spread
        drawn = own + random.standard_normal(400) * (3.0 / np.sqrt(rows))  # trace = 9 * 400 = 3600 a row
        updates.append(update(f"c{number}", drawn, rows=rows, trace=3600.0))
    return updates


@pytest.mark.parametrize(("spread", "dissimilarity"), [(0.0, 1.0), (0.1, 2.0), (0.2, 5.0)])
def test_heterogeneity_is_told_apart_from_noise(spread, dissimilarity):
    figures = across(clients_of(spread))

    assert figures["noise"] == pytest.approx(900.0, rel=0.35)
    assert figures["dissimilarity"] == pytest.approx(dissimilarity, rel=0.35)


def test_one_client_or_clients_that_measure_nothing_say_nothing():
    silent = [update("a", np.ones(400)), update("b", np.ones(400))]

    assert across(silent) == {}
    assert across(clients_of(0.1, count=1)) == {}


def test_clients_that_learnt_nothing_are_left_out():
    idle = Update(BEFORE, 0.0, 0, {"idle": {}}, sums={"units": 0.0, "trace_units": 0.0, "rate": 0.0})
    clients = clients_of(0.1)

    assert across([*clients, idle]) == across(clients)
