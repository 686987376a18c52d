import math

import pytest
import torch

from fedmb.errors import SettingsError
from fedmb.training.guard import Verdict
from fedmb.training.step import StepReport
from fedmb.training.stretch import Budget, Learnt
from fedmb.training.tally import Seen


class Batch:
    """As much of a mini-batch as a stretch looks at."""

    span = {}

    def __init__(self, **origins):
        self.origins = origins


def report(units, verdict=Verdict.OK, norm=None):
    seen = [Seen({"loss": torch.full((4,), 0.5)}, None)] if units else []
    return StepReport(4, units, seen, verdict, None if norm is None else torch.tensor(norm))


def test_a_skipped_step_is_counted_and_its_units_are_not():
    learnt = Learnt()
    learnt.count(Batch(private=4), report(4.0, norm=2.0))
    learnt.count(Batch(private=4), report(0.0, Verdict.SKIP, norm=math.inf))
    learnt.count(Batch(private=4), report(0.0, Verdict.ROLLBACK, norm=9.0))
    sums = learnt.sums()

    assert (sums["steps"], sums["skipped"], sums["units"], sums["loss"]) == (3, 2, 4.0, 2.0)
    assert learnt.rollbacks == 1
    assert sums["gradient_norm"] == 11.0
    assert learnt.rows == {"private": 12}


@pytest.mark.parametrize("limits", [{}, {"steps": 0}, {"seconds": -1.0}, {"joules": 0}, {"samples": math.nan}])
def test_a_budget_without_a_finite_limit_above_zero_is_refused(limits):
    with pytest.raises(SettingsError, match="finite"):
        Budget(**limits)
