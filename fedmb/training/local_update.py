"""What a client does in a round: take the global model, run steps under a budget, hand back an update."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fedmb.aggregation.control_variates import LOST
from fedmb.errors import SettingsError
from fedmb.ledger import Ledger, ledger_within
from fedmb.seeding import torch_seed
from fedmb.telemetry.energy import Energy, available_meter
from fedmb.training.control_variate import OwnVariate
from fedmb.training.distributed import Ranks
from fedmb.training.local_arrays import LocalArrays
from fedmb.training.parameters import arrays_of, check_finite, load_arrays, trained_in
from fedmb.training.privacy_checks import check_alone, quiet
from fedmb.training.private_update import PrivateUpdate
from fedmb.training.round_terms import LiveStream, RoundTerms
from fedmb.training.stretch import Budget
from fedmb.training.travelling import travelling
from fedmb.training.underway import Underway, rebase
from fedmb.update import Arrays, Update

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fedmb.aggregation.control_variates import Variate
    from fedmb.batch.source import BatchSource
    from fedmb.training.client_privacy import ClientPrivacy
    from fedmb.training.delayed_labels import DelayedLabels
    from fedmb.training.recipe import Training
    from fedmb.training.step import GradientEdit
    from fedmb.training.stretch import Learnt
    from fedmb.training.task import Task
    from fedmb.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the last update left behind: where steps ahead begin."""

    arrays: Arrays
    version: int
    """Of the model that it becomes part of."""
    position: Mapping[str, Any]
    terms: RoundTerms


def _text(position: Mapping[str, Any]) -> str:
    """Positions travel as JSON; equal ones give equal text."""
    return json.dumps(position, sort_keys=True)


class LocalUpdate:
    """One client's training. It keeps its model between rounds only to save building it.

    What is learnt in a round depends on the arrays, the position, the round's number and the seed, and on nothing that
    happened in this process before. So a client may be killed, restarted or moved between rounds.

    Args:
        task: what is learnt.
        source: where the client's mini-batches come from.
        training: sizes, optimiser and budget.
        client: name of the client; keys its random numbers and its position.
        seed: seed of the run.
        directory: where what stays with the client outlives the process; None keeps it in memory.
        device: where the model is trained; the CPU, or its rank's, if left out.
        stream: the stream inside the source, where there is one.
        labels: the same, where its labels come later: this model's predictions are scored when they are there.
        ranks: this process among those that torchrun started for the client; every rank calls `run` alike, and
            rank 0's source, arrays and update count.
        privacy: what of its rows leaves the client; None, or one that is off, noises nothing.
    """

    def __init__(
        self,
        task: Task,
        source: BatchSource,
        training: Training,
        *,
        client: str,
        seed: int,
        directory: Path | None = None,
        device: torch.device | None = None,
        stream: LiveStream | None = None,
        labels: DelayedLabels | None = None,
        ranks: Ranks | None = None,
        privacy: ClientPrivacy | None = None,
    ) -> None:
        privacy = privacy if privacy is not None and privacy.is_on else None
        self.task = task
        self.source = source
        self.stream = stream
        self.labels = labels
        self.training = training = quiet(training) if privacy is not None else training
        self.client = client
        self.seed = seed
        self.ranks = ranks or Ranks(device=device)
        self.device = device or self.ranks.device
        if self.device != self.ranks.device:
            raise SettingsError(
                f"a rank trains on the device that it was joined with, got {self.device} for a rank on "
                f"{self.ranks.device}; leave out device"
            )
        with torch.random.fork_rng(devices=[]):  # the model's first numbers are overwritten each round
            self.model = training.build_model(task).to(self.device)
        if labels is not None:
            labels.score_with(self.model, training.prequential, self.device)
        stay = set(self.model.state_dict()) - travelling(self.model, training.norm_travels)
        self._local = LocalArrays(stay if training.norm_travels != "all" else (), directory)
        self._control = OwnVariate(self._trained_names(), directory) if training.control_variates else None
        self._pacing = training.build_pacing(self.model, source)
        self._private: PrivateUpdate | None = None
        if privacy is not None:
            check_alone(ranks=self.ranks.count, has_late_labels=labels is not None)
            trained = (training, self._pacing, self.model, source)
            self._private = PrivateUpdate(privacy, *trained, client=client, seed=seed, directory=directory)
        samples = min(training.samples, training.epochs * source.examples_per_epoch)
        if math.isinf(min(training.steps, samples, training.seconds, training.joules)):
            raise SettingsError(
                f"client {client!r} learns from an endless stream, where epochs = {training.epochs} never end a round; "
                "set training.steps, samples, seconds or joules",
                key="training.epochs",
            )
        rounded = samples if math.isinf(samples) else math.ceil(samples)
        self._meter = available_meter(training.watts)
        self._budget = Budget(steps=training.steps, samples=rounded, seconds=training.seconds, joules=training.joules)
        self._sent: _Sent | None = None
        self._ahead: Underway | None = None

    def run(
        self,
        arrays: Arrays,
        *,
        base_version: int,
        position: Mapping[str, Any],
        ledger: Ledger | None = None,
        terms: RoundTerms | None = None,
        control: Variate | None = None,
    ) -> Update:
        """Train from `arrays`, with rows from `position` on, until a budget or the round's terms end it.

        Partitions that a consumer group moves here begin where `ledger`, the server's, stands.

        A stream that stays silent ends the round early; with no row at all the update has weight 0. Where settings want
        control variates, `control` is the server's.

        Raises:
            ShapeError: the arrays do not fit the task's model.
            Diverged: a parameter is no longer finite; nothing of this round may be used.
        PrivacyExhausted: the client's privacy budget does not allow the round.
        """
        terms = terms or RoundTerms()
        ahead, sent, self._sent = self._taken_ahead(position, base_version, terms), self._sent, None
        if self.stream is not None:
            # The server sends only positions that lie in a checkpoint; its ledger knows of other members' partitions.
            stored = Ledger({**ledger_within(position.get("source")), **(ledger or {})})
            self.stream.acknowledge(stored, f"fedmb version {base_version}")
        if ahead is None and self._is_left_out(position, terms):
            return Update(arrays, weight=0.0, base_version=base_version, positions={self.client: dict(position)})
        if self._private is not None:
            self._private.begin(base_version, dict(position.get("source", {})))
        if self.stream is not None:
            self.stream.limit_waiting(terms.seconds, silence_seconds=terms.silence_seconds)
        budget = replace(self._budget, seconds=min(self._budget.seconds, terms.seconds))
        model = self._local.overlaid(arrays, base_version)
        if ahead is not None and sent is not None:
            ahead.run(replace(self._budget, steps=self.training.overlap_steps), until_alarm=terms.until_alarm)
            rebase(self.model, before=sent.arrays, after=model)
        else:
            load_arrays(self.model, model)
        own = self._control.round(control, position) if self._control is not None else None
        edits = [own.edit(self.model)] if own is not None else []
        underway = ahead or self._begun(base_version, position, seek=True, edits=edits)
        trainer, spent = underway.trainer, underway.spent
        learnt = underway.run(budget, until_alarm=terms.until_alarm)
        sums = self._sums(trainer, learnt, spent)
        if trainer.average is not None:
            self.model.load_state_dict(trainer.average.weights())
        trained = arrays_of(self.model)
        if self._private is None:
            check_finite(trained, client=self.client)
        place = {"source": trainer.source.position(), "trainer": trainer.clock_state()}
        if own is not None:
            place |= own.ended(model, trained, reach=learnt.reach.moved, version=base_version + 1)
            sums |= {LOST: 1.0} if own.is_lost else {}
        if self.training.overlap_steps:
            self._sent = _Sent(trained, base_version + 1, place, terms)
        update = Update(
            arrays=self._local.withheld(trained, arrays, base_version + 1),
            weight=learnt.units,
            base_version=base_version,
            positions={self.client: place},
            spans=learnt.spans,
            sums=sums,
            rows=learnt.rows,
        )
        return update if self._private is None else self._private.released(update, arrays, steps=learnt.steps)

    def _sums(self, trainer: Trainer, learnt: Learnt, spent: Energy) -> dict[str, float]:
        """Everything of a round that can be added up over clients."""
        sums = learnt.sums() | (trainer.watch.sums() if trainer.watch is not None else {})
        if self.labels is not None:
            sums |= self.labels.sums()
        if trainer.stats.trace is not None:
            sums["trace_units"] = trainer.stats.trace * learnt.units
        if spent.joules is not None and (now := self._meter.used()).joules is not None:
            sums[f"joules_{now.label}"] = used = now.joules - spent.joules
            if self.training.grams_per_kwh is not None:
                sums["carbon_grams"] = Energy(used, now.label).carbon_grams(self.training.grams_per_kwh) or 0.0
        return sums

    def step_ahead(self) -> bool:
        """Take a step of the next round, from where this one ended; False once there is none to take.

        `fedmb.training.underway` says what becomes of it. Only whoever keeps this object, with its source to itself,
        until the next `run` may call this.

        Raises:
            FedmbError: what a step raises; then this object is to be made anew.
        """
        sent, wanted = self._sent, self.training.overlap_steps
        if sent is None or (self._ahead is not None and self._ahead.steps >= wanted):
            return False
        if self.stream is not None and not any(self.stream.lag().values()):
            return False  # what is not there yet is waited for when somebody asks
        if self._ahead is None:
            if self.stream is not None:
                self.stream.limit_waiting(sent.terms.seconds, silence_seconds=sent.terms.silence_seconds)
            self._ahead = self._begun(sent.version, sent.position, seek=False)
        before = self._ahead.steps
        self._ahead.run(replace(self._budget, steps=before + 1), until_alarm=sent.terms.until_alarm)
        return before < self._ahead.steps < wanted

    @property
    def trained(self) -> frozenset[str]:
        """Names of the arrays that are trained."""
        return trained_in(self.model)

    @property
    def steps_ahead(self) -> int:
        """Steps that were taken ahead of the next message."""
        return self._ahead.steps if self._ahead else 0

    def _taken_ahead(self, position: Mapping[str, Any], base_version: int, terms: RoundTerms) -> Underway | None:
        """The steps ahead, where they start at the ledger of the model that was sent; otherwise they are dropped."""
        ahead, sent = self._ahead, self._sent
        self._ahead = None
        if ahead is None or sent is None or not ahead.steps:
            return None
        own = {key: position[key] for key in sent.position if key in position}  # others keep theirs beside it
        fits = _text(own) == _text(sent.position) and base_version >= sent.version
        return ahead if fits and self.client not in terms.resting else None

    def _trained_names(self) -> set[str]:
        """Arrays that are trained and travel."""
        if self.ranks.count > 1:
            raise SettingsError(
                f"control variates are kept by one process, got {self.ranks.count} devices; set the client's devices "
                "to 1, or training.control_variates to false",
                key="training.control_variates",
            )
        travels = travelling(self.model, self.training.norm_travels)
        return {name for name in self.trained if name in travels}

    def _begun(
        self, version: int, position: Mapping[str, Any], *, seek: bool, edits: Sequence[GradientEdit] = ()
    ) -> Underway:
        """A round's training with a fresh optimiser, from the model as it is now."""
        spent = self._meter.used()
        trainer = self.training.build_trainer(
            *(self.task, self.model, self.source, self._pacing, self.device, self.ranks),
            client=self.client,
            edits=edits,
            private=self._private.gradients if self._private is not None else None,
        )
        if seek:
            trainer.source.seek(dict(position.get("source", {})))
        if "trainer" in position:
            trainer.load_clock_state(position["trainer"])
        return Underway(trainer, seed=torch_seed(self.seed, self.client, version, "train"), spent=spent)

    def _is_left_out(self, position: Mapping[str, Any], terms: RoundTerms) -> bool:
        """Whether the server leaves this client out, or its stream holds nothing new and the terms skip it for that."""
        if self.client in terms.resting:
            return True
        if not terms.skips_silent:
            return False
        has_nothing = False
        if self.stream is not None and self.ranks.is_first:
            self.source.seek(dict(position.get("source", {})))
            has_nothing = not any(self.stream.lag().values())
        return bool(self.ranks.told(has_nothing))
