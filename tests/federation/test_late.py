"""Updates that come after their round: based on their own model, counted for less, and learnt once."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from numbered_streams import ROUND_ROWS, Recording, Site, SlowGrid, first_state, loop_on
from pydantic import ValidationError

from fedmb.aggregation.compress import Wire
from fedmb.arrays.bfloat16 import rounded, widened
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.late import Late, RecentVersions, rebased
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.update import Update

DISCOUNT = {"policy": "discount"}
# A round closes long before anybody counts as lost.
BRIEF = {"deadline_seconds": 60, "closing": {"seconds": 0.1, "grace_seconds": 0.1}}


class Moving:
    """A client that moves the model by its own constant, at its own weight, and counts its rounds."""

    def __init__(self, client, step, weight):
        self.client, self.step, self.weight = client, step, weight

    def run(self, arrays, *, base_version, position, ledger=None, terms=None):
        moved = {name: array + np.float32(self.step) for name, array in arrays.items()}
        seen = {self.client: {"seen": position.get("seen", 0) + 1}}
        return Update(moved, self.weight, base_version, seen, sums={"units": self.weight}, rows={"private": 1})


def moving(**clients):
    return SlowGrid([SimpleNamespace(name=name, trainer=Moving(name, *told)) for name, told in clients.items()])


def run(grid, count, strategy=None, *, held=(), wire=None, start=None, memory=None, **rounds):
    """Rounds in which clients are held until the version that `held` says."""
    reports, states, held = [], [], dict(held)
    grid.held = set(held)

    def closed(state, report):
        reports.append(report)
        states.append(state)
        grid.held = {name for name, until in held.items() if state.version < until}

    told = Rounds(count=count, **(BRIEF | rounds))
    loop = RoundLoop(grid, strategy or MiniBatchFedAvg(), told, on_round=closed, wire=wire, memory=memory)
    loop.run(start or ServerState(0, {"w": np.zeros(4, np.float32)}))
    return states, reports


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"buffer": 2}, 'is for policy = "discount"'),
        ({"power": 1.0}, 'is for policy = "discount"'),
        ({"policy": "drop", "max_staleness": 2}, 'is for policy = "discount"'),
        ({"policy": "discount", "buffer": 2.5}, "whole number"),
        ({"policy": "discount", "buffer": 0}, "greater than or equal to 1"),
        ({"policy": "discount", "max_staleness": 0}, "greater than or equal to 1"),
        ({"policy": "sometimes"}, "drop"),
    ],
)
def test_settings_that_say_nothing_or_two_things_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        Late(**wrong)


def test_an_update_counts_for_less_the_older_its_model_is():
    assert [Late(**DISCOUNT).factor(age) for age in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert Late(**DISCOUNT, power=0).factor(9) == 1.0


def test_a_late_update_moves_the_current_model_by_its_own_change():
    random = np.random.default_rng(5)
    kinds = {"a": np.float32, "b": np.float64, "c": np.float16}
    base, trained, current = (
        {name: random.standard_normal((3, 2)).astype(kind) for name, kind in kinds.items()}
        | {"d": rounded(random.standard_normal(5)), "n": np.array(number)}
        for number in (1, 2, 3)
    )
    moved = rebased(Update(trained, 1.0, 0, {"x": {}}), base, current, 0.25).arrays

    for name in ("a", "b", "c", "d"):
        was, new, here = (widened(one[name]).astype(np.float64) for one in (base, trained, current))
        assert moved[name].dtype == trained[name].dtype
        tolerance = 0.02 if name in "cd" else 1e-6
        assert np.allclose(widened(moved[name]), here + 0.25 * (new - was), atol=tolerance)
    assert moved["n"] == 2


def test_no_more_models_are_kept_than_updates_may_be_behind():
    recent = RecentVersions(Late(**DISCOUNT, max_staleness=2))
    dropping = RecentVersions(Late())
    kept = [sorted(recent.opened(ServerState(version, {}))) for version in (0, 1, 1, 2, 3, 4)]

    assert kept == [[0], [0, 1], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert [sorted(dropping.opened(ServerState(version, {}))) for version in (0, 1, 2)] == [[0], [1], [2]]


def test_a_late_update_is_added_to_the_model_of_its_arrival():
    grid = moving(quick=(1.0, 1.0), slow=(10.0, 3.0))
    states, reports = run(grid, 3, held={"slow": 2}, late=DISCOUNT)
    # 1, 2: quick alone. 3: quick moves 2 to 3, slow moves 2 by 10 / sqrt(3); weighted 1 to 3.
    expected = (3.0 + 3 * (2.0 + 10.0 * 3**-0.5)) / 4

    assert [report.late for report in reports] == [{}, {}, {"slow": 2}]
    assert [state.arrays["w"][0] for state in states[:2]] == [1.0, 2.0]
    assert np.allclose(states[2].arrays["w"], expected, rtol=1e-6)
    assert states[2].positions == {"quick": {"seen": 3}, "slow": {"seen": 1}}
    assert states[2].learnt == {"quick": {"private": 3}, "slow": {"private": 1}}


def test_by_default_it_is_dropped():
    states, reports = run(moving(quick=(1.0, 1.0), slow=(10.0, 3.0)), 3, held={"slow": 2})

    assert "must start from version 2, got 0; it came late" in reports[2].rejected["slow"]
    assert states[2].arrays["w"][0] == 3.0
    assert "slow" not in states[2].positions


def test_flowers_strategies_take_late_updates_as_ours_does():
    ours, _ = run(moving(quick=(1.0, 1.0), slow=(10.0, 3.0)), 3, held={"slow": 1}, late=DISCOUNT)
    theirs, reports = run(moving(quick=(1.0, 1.0), slow=(10.0, 3.0)), 3, FedAvg(), held={"slow": 1}, late=DISCOUNT)

    assert reports[1].late == {"slow": 1}
    assert np.allclose(ours[2].arrays["w"], theirs[2].arrays["w"], rtol=1e-6)


@pytest.mark.parametrize("compression", ["bf16", "int8", "top"])
def test_a_compressed_late_update_is_decoded_against_its_own_model(compression):
    wire = Wire(compression=compression, **({"top_share": 1.0} if compression == "top" else {}))
    grids = [moving(quick=(1.0, 1.0), slow=(8.0, 1.0)) for _ in range(2)]
    plain, _ = run(grids[0], 4, held={"slow": 3}, late=DISCOUNT)
    small, reports = run(grids[1], 4, held={"slow": 3}, late=DISCOUNT, wire=wire)

    assert reports[3].late == {"slow": 3}
    assert np.allclose(small[3].arrays["w"], plain[3].arrays["w"], atol=1e-3)


def test_an_update_that_is_too_far_behind_is_dropped():
    late = {**DISCOUNT, "max_staleness": 1}
    _, reports = run(moving(quick=(1.0, 1.0), slow=(10.0, 3.0)), 4, held={"slow": 2}, late=late)

    assert "must start from version 1 to 2, got 0" in reports[2].rejected["slow"]
    assert "slow" not in reports[3].rejected  # asked anew, it is in time


def test_a_client_that_was_taken_for_lost_is_learnt_from_once():
    grid = moving(quick=(1.0, 1.0), slow=(10.0, 3.0))
    # Its deadline passes with round 1, so it is asked again in round 2: two answers come in round 3.
    states, reports = run(grid, 4, held={"slow": 2}, late=DISCOUNT, deadline_seconds=0.1)

    assert [number for number, name in grid.asked if name == "slow"][:2] == [1, 2]
    assert states[2].positions["slow"] == {"seen": 1}
    assert states[2].learnt["slow"] == {"private": 1}
    assert "slow" in reports[2].rejected


def test_a_late_update_of_a_stream_is_learnt_once(tmp_path):
    busy, slow = (Site(tmp_path, name).append(rounds=4) for name in ("busy", "slow"))
    grid, strategy, reports = SlowGrid([busy, slow]), Recording(), []
    grid.held = {"slow"}

    def let_go(state, report):
        reports.append(report)
        grid.held = set()

    rounds = {"count": 4, "closing": {"rows": ROUND_ROWS}, "late": DISCOUNT}
    state = loop_on(grid, rounds, strategy=strategy, on_round=let_go).run(first_state())

    assert reports[1].late == {"slow": 1}
    assert not any(report.rejected for report in reports)
    assert strategy.chained().keys() == {busy.partition, slow.partition}  # no gap, and nothing twice
    assert all(span.start == (0, 0) and span.stop == state.ledger[p] for p, span in strategy.chained().items())
    assert slow.learnt_rows(state.ledger) == 3 * ROUND_ROWS  # one round more than where late updates are dropped
    assert sum(report.rows["stream"] for report in reports) == sum(
        site.learnt_rows(state.ledger) for site in (busy, slow)
    )


def test_a_late_stretch_of_a_stream_that_the_ledger_has_passed_is_refused(tmp_path):
    away, busy = (Site(tmp_path, name).append(rounds=6) for name in ("away", "busy"))
    grid, strategy, reports = SlowGrid([away, busy]), Recording(), []
    grid.held = {"away"}

    def back(state, report):
        reports.append(report)
        grid.held = grid.held if report.round < 2 else set()

    rounds = {"count": 4, "deadline_seconds": 0.1, "late": DISCOUNT}  # lost after round 1 and asked anew
    state = loop_on(grid, rounds, strategy=strategy, on_round=back).run(first_state())

    assert len([1 for number, name in grid.asked if name == "away" and number <= 2]) == 2
    assert "away" in reports[2].rejected
    assert strategy.chained()[away.partition].stop == state.ledger[away.partition]
    assert sum(report.rows["stream"] for report in reports) == sum(
        site.learnt_rows(state.ledger) for site in (away, busy)
    )


def test_with_a_buffer_every_k_updates_make_a_version():
    grid = moving(a=(1.0, 1.0), b=(2.0, 1.0), slow=(9.0, 1.0))
    late = {**DISCOUNT, "buffer": 2}
    states, reports = run(grid, 4, held={"slow": 2}, late=late, deadline_seconds=20)
    first, second = 1.5, 3.0  # the means of a and b, then of all three: slow's is two versions behind
    third = np.mean([second + 1.0, second + 2.0, second + 9.0 * 3**-0.5])

    assert [report.closed_by for report in reports[:2]] == ["enough", "enough"]
    assert [report.accepted for report in reports[:3]] == [("a", "b"), ("a", "b"), ("a", "b", "slow")]
    assert [state.arrays["w"][0] for state in states[:2]] == [first, second]
    assert np.allclose(states[2].arrays["w"], third, rtol=1e-6)
    assert reports[2].late == {"slow": 2}


def test_a_buffer_waits_for_late_ones_where_nobody_is_free():
    grid = moving(a=(1.0, 1.0), b=(2.0, 1.0))
    late = {**DISCOUNT, "buffer": 2}
    _, reports = run(grid, 2, held={"a": 1, "b": 1}, late=late, deadline_seconds=0.5)

    assert [report.clients for report in reports] == [0, 2]
    assert reports[1].late == {"a": 1, "b": 1}
