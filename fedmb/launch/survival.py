"""A run that goes on when one of its processes dies.

    while the run is not over:
        start the SuperLink if there is none, submit the run, follow it
        lost the server's process   submit it again: it starts from the newest checkpoint
        lost the SuperLink          start it again on the same port, and submit; clients come back by themselves

Each loss costs the round that was open, which is learnt again, to the same bits where the same clients take part. What
clients still learn for the lost process comes too late and is refused by its base version. A failure that the run
itself tells of, such as settings, too few clients or a full disk, is none of this: it would only come again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fedmb.errors import FedmbError
from fedmb.federation import checkpoint
from fedmb.launch.deployment import Lost

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from fedmb.launch.deployment import Deployment
    from fedmb.launch.standing import Standing

log = logging.getLogger(__name__)

SHORTEST_SECONDS = 0.2  # before the first time again: clients wait
LONGEST_SECONDS = 30.0  # what dies at once, again and again, must not eat the machine


def survive(deployment: Deployment, checkpoints: Path, stop: Event, *, most: int, standing: Standing) -> None:
    """Run a started deployment until its run is over, or `stop` is set while none of it is under way.

    Args:
        deployment: started.
        checkpoints: directory of the run's checkpoints; a new one there is a closed round.
        stop: set by the first wish to end.
        most: times in a row, with no round closed between, that something is started again.
        standing: told what is amiss, and what was started again.

    Raises:
        FedmbError: the run failed by itself, or was lost once more than `most` times.
        OSError: as `Deployment.run`.
    """
    failures, closed = 0, _closed(checkpoints)
    while True:
        try:
            if not deployment.has_superlink:
                deployment.start()
            deployment.run()
        except Lost as lost:
            failures, closed = (1 if _closed(checkpoints) > closed else failures + 1), _closed(checkpoints)
            if failures > most:
                raise FedmbError(
                    f"a run must close a round between two losses of a process, it was lost {failures} times in a row "
                    f"without (restarts = {most}), last: {lost}"
                ) from lost
            pause = min(SHORTEST_SECONDS * 2 ** (failures - 1), LONGEST_SECONDS)
            log.warning("%s lost round=%d again_seconds=%g reason=%s", lost.part, closed, pause, lost)
            standing.amiss(str(lost))
            if lost.part == "superlink":
                deployment.stop_superlink()
            if stop.wait(pause):  # nothing is under way that a drain could wait for
                return
            standing.restarted(lost.part)
        else:
            return


def _closed(checkpoints: Path) -> int:
    """Number of the last round that is stored."""
    found = checkpoint.generations(checkpoints)
    return found[-1][0] if found else 0
