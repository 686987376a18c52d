"""What dies is started again, more and more seldom, and given up when no round closes between."""

import threading

import numpy as np
import pytest

from fedmb.errors import FedmbError, NotEnoughData
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.launch import survival
from fedmb.launch.deployment import PARTS, Lost
from fedmb.launch.standing import Standing
from fedmb.launch.survival import survive


class Deployed:
    """A deployment whose runs end as they are told to; stands for processes."""

    def __init__(self, *ends):
        self.ends = list(ends)
        self.has_superlink = True
        self.said = []

    def start(self):
        self.said.append("start")
        self.has_superlink = True

    def stop_superlink(self):
        self.said.append("stop")
        self.has_superlink = False

    def run(self):
        self.said.append("run")
        end = self.ends.pop(0)
        if callable(end):
            end = end()
        if end is not None:
            raise end


def lost(part="run"):
    return Lost(f"the {part} ended", part=part)


@pytest.fixture
def pauses(monkeypatch):
    """Pauses that were asked for; none is waited."""
    asked = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            asked.append(timeout)
            return self.is_set()

    return Stop(), asked


def standing_of(stop):
    return Standing("server", stop, *PARTS)


def test_a_lost_process_is_submitted_again_and_a_lost_superlink_started_first(tmp_path, pauses, caplog):
    stop, _ = pauses
    deployed, standing = Deployed(lost(), lost("superlink"), None), standing_of(stop)

    survive(deployed, tmp_path, stop, most=5, standing=standing)

    assert deployed.said == ["run", "run", "stop", "start", "run"]
    assert standing.restarts == {"superlink": 1, "run": 1, "door": 0}
    assert "superlink lost round=0 again_seconds=0.4 reason=the superlink ended" in caplog.text


def test_it_is_given_up_when_no_round_closes_between(tmp_path, pauses):
    stop, asked = pauses
    deployed = Deployed(*(lost() for _ in range(4)))

    with pytest.raises(FedmbError, match=r"lost 4 times in a row without \(restarts = 3\), last: the run ended"):
        survive(deployed, tmp_path, stop, most=3, standing=standing_of(stop))
    assert asked == [0.2, 0.4, 0.8]


def test_a_round_that_closed_between_begins_the_count_anew(tmp_path, pauses):
    stop, asked = pauses
    rounds = iter(range(1, 99))

    def after_a_round():
        checkpoint.save(tmp_path, ServerState(next(rounds), {"w": np.zeros(1)}))
        return lost()

    survive(Deployed(*[after_a_round] * 9, None), tmp_path, stop, most=1, standing=standing_of(stop))

    assert asked == [0.2] * 9


def test_pauses_have_a_bound(tmp_path, pauses):
    stop, asked = pauses
    survive(Deployed(*(lost() for _ in range(20)), None), tmp_path, stop, most=20, standing=standing_of(stop))

    assert asked[-1] == survival.LONGEST_SECONDS


def test_what_the_run_itself_tells_of_is_not_tried_again(tmp_path, pauses):
    stop, asked = pauses
    deployed = Deployed(NotEnoughData("a round needs 2 connected clients"))

    with pytest.raises(NotEnoughData):
        survive(deployed, tmp_path, stop, most=5, standing=standing_of(stop))
    assert (deployed.said, asked) == (["run"], [])


def test_0_restarts_never_starts_anything_again(tmp_path, pauses):
    stop, _ = pauses
    with pytest.raises(FedmbError, match="lost 1 times in a row"):
        survive(Deployed(lost()), tmp_path, stop, most=0, standing=standing_of(stop))


def test_a_wish_to_end_is_heard_between_two_tries(tmp_path, pauses):
    stop, _ = pauses
    stop.set()
    deployed = Deployed(lost())

    survive(deployed, tmp_path, stop, most=5, standing=standing_of(stop))

    assert deployed.said == ["run"]
