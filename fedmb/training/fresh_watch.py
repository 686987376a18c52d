"""Watches the fresh rows of a stream: scores them before they are learnt, and answers alarms.

    after each step:   keep what the forward pass before the step gave, on the device
    every k steps:     read it, once for all k; score each batch's fresh rows; let the detector hear their mean loss
    an alarm:          is counted and logged as soon as it is read, and answered at the next multiple of k steps

Reading earlier, as at the end of a round or for a checkpoint, changes nothing but when the line is logged: figures are
counted batch by batch in any case, and answers wait for their step. So stopping and resuming gives the same bits.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fedmb.batch.minibatch import MiniBatch
from fedmb.batch.replay_share import SharesReplay, replay_share
from fedmb.errors import SettingsError
from fedmb.telemetry.prequential import Prequential
from fedmb.training.distributed import Ranks
from fedmb.training.drift import DriftResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.source import BatchSource
    from fedmb.sizing.schedule import Schedule
    from fedmb.training.drift import Drift, DriftDetector, Scoring
    from fedmb.training.step import StepReport
    from fedmb.training.tally import Seen

log = logging.getLogger(__name__)

EVERY = 16  # steps between two readings: a reading waits for the device, and a sixteenth of a wait is little
FRESH = "stream"


class _Tested(NamedTuple):
    """What a step's forward pass gave, still on the device."""

    seen: Sequence[Seen]
    fresh: int
    """Rows from the stream, which stand in front of replayed ones."""
    rows: int
    samples: int
    """Rows learnt by the end of the step."""


class FreshWatch:
    """Scores fresh rows and answers alarms for one trainer.

    Counted are the first rows of a batch, as many as its origins say came from the stream; a batch that a guard threw
    away is not, nor on several ranks one that leaves a rank without a row. A mixture that puts streams behind replayed
    rows is therefore not scored rightly.

    Args:
        source: the trainer's; its replayed share is changed where the response says so.
        prequential: the score; None for none.
        detector: hears the mean loss of each batch's fresh rows; None for none.
        response: what an alarm changes; None for nothing.
        every: steps between two readings.
        client: name in the log line of an alarm.
        ranks: the trainer's processes; all of them watch alike.
        multiple: rows of the groups that a batch is dealt out in over ranks.

    Raises:
        SettingsError: a response without a detector, one that changes the share of a stream without replay, or
            `every` below 1.
    """

    def __init__(
        self,
        source: BatchSource,
        *,
        prequential: Prequential | None = None,
        detector: DriftDetector | None = None,
        response: DriftResponse | None = None,
        every: int = EVERY,
        client: str = "",
        ranks: Ranks | None = None,
        multiple: int = 1,
    ) -> None:
        if response is not None and detector is None:
            raise SettingsError("a response needs an alarm to answer, got no detector; pass one, or no response")
        if every < 1:
            raise SettingsError(f"figures are read every 1 or more steps, got {every}; take {EVERY}", key="every")
        self._ranks = ranks or Ranks()
        if response is not None and self._ranks.is_first:
            response.drift.check(source)
        self._source = source
        self._prequential = prequential
        self._detector = detector
        self._response = response
        self._every = every
        self._client = client
        self._multiple = multiple
        self._pending: list[_Tested] = []
        self._has_rung = False
        self._alarms = self._alarms_before = 0
        self._replays = response is not None and response.drift.replay_share is not None

    @property
    def schedule(self) -> Schedule | None:
        """The response's factor on the learning rate; None where it has none."""
        return self._response.schedule if self._response is not None else None

    @property
    def alarms(self) -> int:
        """Alarms so far; this waits for the device."""
        self._read()
        return self._alarms

    @property
    def has_alarm(self) -> bool:
        """Whether an alarm was read since the stretch began; nothing waits for the device."""
        return self._alarms > self._alarms_before

    def begin(self) -> None:
        """Count the alarms of a new stretch of training."""
        self._alarms_before = self.alarms

    def before_step(self, steps: int, samples: int, size: int) -> int:
        """Read and answer where it is time; rows to ask for where a policy said `size`."""
        if steps % self._every == 0:
            self._read()
            if self._has_rung and self._response is not None:
                self._response.begin(samples)
            self._has_rung = False
        if self._response is None:
            return size
        if self._replays:
            self._share_out(self._response.share(samples))
        return self._response.size(size, samples)

    def after_step(self, batch: MiniBatch, report: StepReport, samples: int) -> None:
        """Keep what was tested; costs a list entry, and nothing waits for the device."""
        if not report.units:
            return
        if self._ranks.count > 1:
            if -(-len(batch) // self._multiple) < self._ranks.count:
                return  # a rank without a row does not know which figures there are
        elif FRESH not in batch.origins:
            return
        self._pending.append(_Tested(report.seen, batch.origins.get(FRESH, 0), len(batch), samples))

    def sums(self) -> dict[str, float]:
        """What travels: the score's sums, and "alarms" since the stretch began; this waits for the device."""
        alarms = self.alarms - self._alarms_before
        scores = self._prequential.sums() if self._prequential is not None else {}
        return scores | ({"alarms": float(alarms)} if self._detector is not None else {})

    def state_dict(self) -> dict[str, Any]:
        """Score, detector, response and whether an alarm waits to be answered, as JSON values; waits for the device."""
        self._read()
        state: dict[str, Any] = {"has_rung": self._has_rung, "alarms": self._alarms}
        parts = {"prequential": self._prequential, "detector": self._detector, "response": self._response}
        return state | {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, to the bit, from what `state_dict` gave.

        Raises:
            ValueError: the state belongs to a watch with other parts.
        """
        parts = {"prequential": self._prequential, "detector": self._detector, "response": self._response}
        wanted = {name for name, part in parts.items() if part is not None} | {"has_rung", "alarms"}
        if state.keys() != wanted:
            raise ValueError(f"a watch's state must hold {sorted(wanted)}, got {sorted(state)}; it belongs elsewhere")
        self._pending.clear()
        self._has_rung = state["has_rung"]
        self._alarms = self._alarms_before = state["alarms"]
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])

    def _share_out(self, wanted: float | None) -> None:
        """Bring the source's share to `wanted`, or to the usual one; nothing happens where it is that."""
        if not self._ranks.is_first or not isinstance(self._source, SharesReplay):
            return
        if (known := replay_share(self._source)) is not None:
            share = known.usual if wanted is None else wanted
            if share != known.in_force:
                self._source.change_replay_share(share)

    def _read(self) -> None:
        """Score what is pending and let the detector hear it, batch by batch."""
        if not self._pending:
            return
        tested, self._pending = self._pending, []
        for one, sums in zip(tested, self._sums_of(tested), strict=True):
            rows = int(sums.pop("rows"))
            if rows and self._prequential is not None:
                self._prequential.observe(rows, sums)
            loss = sums["loss"] / sums["units"] if rows else math.nan
            if self._detector is not None and math.isfinite(loss) and self._detector.observe(loss, rows):
                self._has_rung = True
                self._alarms += 1
                if self._ranks.is_first:
                    log.info("drift alarm rang client=%s sample=%d loss=%.4f", self._client, one.samples, loss)

    def _sums_of(self, tested: Sequence[_Tested]) -> list[dict[str, float]]:
        """Sums over each batch's fresh rows, with their number as "rows"; several ranks add theirs up."""
        fresh = self._ranks.told([one.fresh for one in tested])
        names, values = _figures([part for one in tested for part in one.seen])
        edges = [0]
        for one, count in zip(tested, fresh, strict=True):
            start = edges[-1]
            edges += [start + self._rows_here(one.rows, count), start + self._rows_here(one.rows, one.rows)]
        sums = [values[:, start:stop].sum(1).tolist() for start, stop in zip(edges[::2], edges[1::2], strict=False)]
        found = [dict(zip(names, each, strict=True)) for each in sums]
        if self._ranks.count == 1:
            return found
        named = {f"{number}/{name}": value for number, each in enumerate(found) for name, value in each.items()}
        together = self._ranks.total(named)
        return [{name: together[f"{number}/{name}"] for name in names} for number in range(len(found))]

    def _rows_here(self, rows: int, first: int) -> int:
        """How many of the `first` rows of a batch of `rows` this rank learns."""
        if self._ranks.count == 1:
            return first
        shard = self._ranks.shard(MiniBatch({"row": np.arange(rows)}), multiple=self._multiple)
        return int(np.count_nonzero(shard.columns["row"] < first))


def _figures(seen: Sequence[Seen]) -> tuple[list[str], NDArray[np.float64]]:
    """Names, and losses and metrics times units, units, and 1 where a row has units: `(names, rows)`.

    One copy from the device, and only sums are taken from it, which do not depend on what else was read with them.
    """
    names = list(seen[0].values)
    with torch.no_grad():
        columns = [torch.cat([part.values[name] for part in seen]).double() for name in names]
        if any(part.units is not None for part in seen):
            units = [torch.ones_like(part.values[names[0]]) if part.units is None else part.units for part in seen]
            columns.append(torch.cat(units).double())
        else:
            columns.append(torch.ones_like(columns[0]))
        values = torch.stack(columns)
        values[:-1] *= values[-1]
        values = torch.cat([values, (values[-1:] != 0).double()])
        read: NDArray[np.float64] = values.cpu().numpy()
    return [*names, "units", "rows"], read


def watch_for(
    source: BatchSource,
    scoring: Scoring,
    drift: Drift,
    *,
    client: str,
    ranks: Ranks,
    rows_multiple: int,
    multiple: int,
) -> FreshWatch | None:
    """Scores and alarms of a stream; None for a table, which has no fresh rows, and where all is off.

    Args:
        source: the trainer's.
        scoring: which scores are kept.
        drift: what rings, and what an alarm changes.
        client: name in the log line of an alarm.
        ranks: the trainer's processes.
        rows_multiple: batch sizes are multiples of it, those after an alarm too.
        multiple: as in `FreshWatch`.
    """
    detector = drift.build()
    is_endless = ranks.told(math.isinf(source.examples_per_epoch))  # rank 0's source is the client's
    if not is_endless or (not scoring.window and detector is None):
        return None
    return FreshWatch(
        source,
        prequential=Prequential(window=scoring.window, fading=scoring.fading) if scoring.window else None,
        detector=detector,
        response=DriftResponse(drift, multiple=rows_multiple) if detector is not None else None,
        every=scoring.every,
        client=client,
        ranks=ranks,
        multiple=multiple,
    )
