"""A client's privacy beside its training: what is refused, what is noised, what of an update may leave, and its count.

    begin      demand that the budget allows the round; draw chance anew
    steps      unit "example": `ExampleGradients` noises every one of them
    released   unit "update": shorten and noise the round's change; then withhold what clients measure, and count

Only trained parameters leave. All other arrays go back as they came, and of what training measured the numbers that
follow from settings and positions alone, such as rows: losses, scores, noise, times and alarms stay.

Source: McMahan et al. 2018, arXiv:1710.06963, algorithm 1 (a change is shortened); Abadi et al. 2016, arXiv:1607.00133.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.randomness import Seeded, Unpredictable
from fedmb.aggregation.server_optimizer import in_dtype
from fedmb.arrays.bfloat16 import widened
from fedmb.batch.poisson import PoissonSource
from fedmb.errors import SettingsError
from fedmb.ledger import ledger_within, partitions_within
from fedmb.training.example_gradients import ExampleGradients
from fedmb.training.parameters import check_finite
from fedmb.training.privacy_checks import TABLE, check_model, check_source, check_training, counted_as
from fedmb.training.reach import REACH
from fedmb.training.release_account import END, Release, ReleaseAccount
from fedmb.training.travelling import travelling
from fedmb.update import EPSILON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from fedmb.batch.source import BatchSource
    from fedmb.sizing.pacing import Pacing
    from fedmb.training.client_privacy import ClientPrivacy
    from fedmb.training.recipe import Training
    from fedmb.training.released_stretches import Place
    from fedmb.update import Arrays, Update

log = logging.getLogger(__name__)

_TOLD = {"steps", "rate", REACH}  # sums that follow from settings and positions
_CLOCKS = {"samples", "steps", "size", "asked_at", "probe"}  # likewise, in a trainer's position


class PrivateUpdate:
    """One client's privacy.

    Args:
        privacy: the settings, switched on.
        training: how the client trains.
        paced: its sizes and rates.
        model: what is trained, with the settings' layers.
        source: where rows come from.
        client: name of the client.
        seed: of the run; read where randomness is seeded, and by a shuffled table.
        directory: the client's own, where its account lies.

    Raises:
        SettingsError: training or source do not go with privacy, or an extra is not installed.
    """

    def __init__(
        self,
        privacy: ClientPrivacy,
        training: Training,
        paced: Pacing,
        model: nn.Module,
        source: BatchSource,
        *,
        client: str,
        seed: int,
        directory: Path | None,
    ) -> None:
        assert privacy.clip_norm is not None, "made where privacy is on"
        if directory is None:
            raise SettingsError(
                "a client's privacy is counted in a file, got no directory; give the client one of its own"
            )
        self._privacy = privacy
        self._clip_norm = privacy.clip_norm
        self._client = client
        self._seed = seed
        self._source = source
        check_training(privacy, training, paced)
        check_model(training, model)
        self._is_by_example = privacy.unit == "example"
        check_source(source)
        self._kind = counted_as(source) if self._is_by_example else "whole"
        self._noise = privacy.noise_multiplier
        self._size = int(min(paced.size.largest, source.examples_per_epoch))
        rows = min(training.samples, training.epochs * source.examples_per_epoch)
        self._most_rows = min(rows, training.steps * self._size)
        self._most_steps = min(training.steps, math.ceil(rows / self._size) if math.isfinite(rows) else math.inf)
        self._from: Mapping[str, Any] = {}
        if privacy.randomness == "seeded":
            log.warning("noise follows from the seed, which the server knows client=%s randomness=seeded", client)
        self._random = Seeded(seed, client) if privacy.randomness == "seeded" else Unpredictable()
        travels = travelling(model, training.norm_travels)
        self._trained = {
            name
            for name, one in model.named_parameters(remove_duplicate=False)
            if name in travels and one.requires_grad
        }
        self.account = ReleaseAccount(directory, client=client, delta=privacy.delta, budget=privacy.epsilon)
        self.account.check_readable()  # now, and not after a round that was trained in vain
        self.gradients: ExampleGradients | None = None
        if self._is_by_example:
            self.gradients = ExampleGradients(
                model, clip_norm=self._clip_norm, noise_multiplier=self._noise, normals=self._random.normals
            )

    def begin(self, version: int, position: Mapping[str, Any]) -> None:
        """Begin a round from a position of the source.

        Raises:
            PrivacyExhausted: no round more keeps within the budget.
            SettingsError: the account is damaged, or the position cannot be counted.
        """
        self.account.check(self._next(position))
        self._random.begin(version)
        if isinstance(self._source, PoissonSource) and self._privacy.randomness == "unpredictable":
            self._source.rekey(int.from_bytes(os.urandom(16)))
        self._from = position

    def released(self, update: Update, received: Arrays, *, steps: int) -> Update:
        """What of a round's update may leave, counted.

        Args:
            update: what training ended with.
            received: the model that it began with, as the server sent it.
            steps: how many there were; a round without any releases nothing.

        Raises:
            PrivacyExhausted: it would pass the budget after all; nothing may leave.
            SettingsError: its rows cannot be counted; nothing may leave.
            Diverged: noised steps led out of all bounds; the release is counted.
            OSError: the account cannot be written; nothing may leave.
        """
        place = update.positions[self._client]
        kept = _CLOCKS | ({"guard"} if self._is_by_example else set())  # it has judged noised gradients alone
        clocks = {name: value for name, value in place["trainer"].items() if name in kept}
        positions = {self._client: {"source": place["source"], "trainer": clocks}}
        if steps == 0:
            return replace(update, arrays=received, weight=0.0, positions=positions, sums={}, rows={})
        epsilon = self.account.count(self._release(update, steps))
        weight = update.weight if self._is_by_example else float(sum(update.rows.values()))
        if self._is_by_example:
            check_finite(update.arrays, client=self._client)
            trained = update.arrays
        else:
            trained = noised_change(
                {name: update.arrays[name] for name in sorted(self._trained)},
                received,
                clip_norm=self._clip_norm,
                noise_multiplier=self._noise,
                normals=self._random.normals,
            )
        sums = {name: value for name, value in update.sums.items() if name in _TOLD}
        return replace(
            update,
            arrays={name: trained[name] if name in self._trained else array for name, array in received.items()},
            weight=weight,
            positions=positions,
            sums={"units": weight, **sums, EPSILON: epsilon},
            rows={"private": int(weight)} if self._kind == "poisson" else update.rows,  # how many came would tell who
        )

    def _next(self, position: Mapping[str, Any]) -> Release:
        """What a round from a position of the source releases at most, as far as can be told before it."""
        if self._kind == "whole":
            return self._whole()
        if isinstance(self._source, PoissonSource):
            return Release(self._noise, rate=self._source.rate(self._size), count=int(self._most_steps))
        if self._kind == "pass":
            epoch, cursor = _place(position)
            rows = epoch * self._rows + cursor + int(self._most_rows)
            return self._passes((epoch, cursor), divmod(rows, self._rows))
        ledger = {str(partition): tuple(place) for partition, place in ledger_within(position).items()}
        names = {*ledger, *partitions_within(self._source.position())} or {""}
        return Release(self._noise, kind="stream", stretches={name: (ledger.get(name, (0, 0)), END) for name in names})

    def _release(self, update: Update, steps: int) -> Release:
        """What a round released.

        Raises:
            SettingsError: as `released`.
        """
        if self._kind == "whole":
            return self._whole()
        if set(update.rows) != {"stream" if self._kind == "stream" else "private"} or (
            self._kind == "stream" and not update.spans
        ):
            raise SettingsError(
                f"every row of a private client must be counted once, got rows of {sorted(update.rows)}; learn from a "
                "table, or from a stream without replay, or set privacy.unit to update",
                key="privacy.unit",
            )
        if isinstance(self._source, PoissonSource):
            return Release(self._noise, rate=self._source.rate(self._size), count=steps)
        if self._kind == "pass":
            return self._passes(_place(self._from), _place(update.positions[self._client]["source"]))
        spans = {str(partition): (tuple(span.start), tuple(span.stop)) for partition, span in update.spans.items()}
        return Release(self._noise, kind="stream", stretches=spans)

    def _whole(self) -> Release:
        # Two changes, of two sets of rows, may lie twice the clip apart.
        return Release(self._noise / 2)

    @property
    def _rows(self) -> int:
        return int(self._source.examples_per_epoch)

    def _passes(self, start: tuple[int, int], stop: tuple[int, int]) -> Release:
        """Places (pass, rows of it given): what lies between them, by pass. Another seed orders rows anew."""
        stretches: dict[str, tuple[Place, Place]] = {}
        for number in range(start[0], stop[0] + 1):
            begin = start[1] if number == start[0] else 0
            end = stop[1] if number == stop[0] else self._rows
            if begin < end:
                stretches[f"{self._seed}/{self._rows}/{number}"] = ((begin,), (end,))
        return Release(self._noise, kind="pass", stretches=stretches, rows=self._rows)


def noised_change(
    trained: Arrays,
    received: Arrays,
    *,
    clip_norm: float,
    noise_multiplier: float,
    normals: Callable[[int], NDArray[np.float64]],
) -> dict[str, NDArray[Any]]:
    """`received` moved by the shortened change and by noise, for the names in `trained`.

    A change that is not finite counts as none, and is noised like any other: its failure tells nothing.

    Args:
        trained: arrays after training, those that are noised.
        received: arrays before it.
        clip_norm: longest change that counts, over all of them.
        noise_multiplier: standard deviation of the noise, in clip_norms.
        normals: draws so many standard normal numbers.
    """
    changes = {name: widened(array).astype(np.float64) - widened(received[name]) for name, array in trained.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        length = math.sqrt(sum(float(np.vdot(change, change)) for change in changes.values()))
    share = min(1.0, clip_norm / length) if length and math.isfinite(length) else float(length == 0)
    if not math.isfinite(length):
        log.warning("change not finite; noise is sent alone, see training.learning_rate")
    result = {}
    for name, change in changes.items():
        noise = noise_multiplier * clip_norm * normals(change.size).reshape(change.shape)
        moved = widened(received[name]) + (change * share if share else 0.0) + noise
        result[name] = in_dtype(np.asarray(moved), received[name].dtype)
    return result


def _place(position: Mapping[str, Any]) -> tuple[int, int]:
    """Pass and rows of it given, of a table's position; an empty one is the beginning.

    Raises:
        SettingsError: it has another form.
    """
    epoch, cursor = position.get("epoch", 0), position.get("cursor", 0)
    if position.keys() - TABLE or not (type(epoch) is int and type(cursor) is int and min(epoch, cursor) >= 0):
        raise SettingsError(f"a position of a private table must be one of {sorted(TABLE)}, got another; start anew")
    return epoch, cursor
