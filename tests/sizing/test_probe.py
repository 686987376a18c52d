import pytest

from fedmb.sizing.energy import energy_budget, energy_goodput
from fedmb.sizing.goodput import goodput
from fedmb.sizing.planned import fixed
from fedmb.sizing.probe import probe
from fedmb.sizing.stats import Stats


def seen(*sizes, joules=True):
    stats = Stats()
    for rows in sizes:
        stats.observe_step(rows, 0.01 + 1e-4 * rows, 0.3 + 0.01 * rows if joules else None)
    return stats


@pytest.mark.parametrize("policy", [goodput(32), energy_goodput(32), energy_budget(9.0, 900, start=32)])
def test_half_of_the_size_is_tried_while_one_size_alone_was_seen(policy):
    assert probe(policy, 32, seen(32, 32)) == 16


def test_nothing_is_tried_before_a_step_was_seen_and_after_a_line_is_known():
    assert probe(goodput(32), 32, Stats()) is None
    assert probe(goodput(32), 32, seen(32, 31)) is None


def test_nothing_is_tried_for_a_policy_that_reads_no_cost_or_where_no_joules_are_seen():
    assert probe(fixed(32), 32, seen(32)) is None
    assert probe(energy_goodput(32), 32, seen(32, joules=False)) is None


@pytest.mark.parametrize(
    ("policy", "held", "tried"),
    [
        (goodput(32).clip(32, 128), 32, 64),  # half is out of bounds
        (goodput(32).clip(24, 128), 32, 24),  # as near to half as bounds allow
        (goodput(32).clip(8, 128).multiple(8), 24, 8),  # half in whole groups
        (goodput(32).clip(1, 8), 1, 2),
        (goodput(32).clip(32, 32), 32, None),
        (goodput(32).damped().clip(16, 64).multiple(16).every(9999), 32, 16),  # what damps and delays binds no probe
    ],
)
def test_a_probe_stays_within_the_bounds_and_in_whole_groups(policy, held, tried):
    assert probe(policy, held, seen(held)) == tried
