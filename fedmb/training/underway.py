"""A round's training between its first step and its update; it may begin before the model that it counts from is there.

    update of round t sent: model y, position p
    ahead     steps from y, rows from p on: model z                  while messages travel
    rebase    z + (X - y)                                            the model X of round t + 1 is there
    the rest  of round t + 1's steps from there

**What the ledger allows.** Rows behind p are nobody's until the server has stored p. So steps ahead are no update of
their own: they are the first steps of the next one, whose spans start at p. Whether they count is decided by the next
message alone: it carries the position that goes with its model. If that is p, the update of round t was accepted, and
the steps ahead start exactly where the model's ledger stands; if it is another, the server's model does not have the
rows before p, and the steps ahead are dropped and the source is sought to what the message says. Nothing is learnt
twice and nothing is skipped, whoever is killed when: steps ahead live in memory only, and are in no position.
A source that a seek alone lets go of rows, and a group, whose partitions others may learn meanwhile, are not run ahead.

**What a number may depend on.** A round takes as many steps ahead as the settings say, however long messages travelled:
those that are missing when the message is there are taken before the rebase. So times decide no bit.

Source: Overlap-Local-SGD, Wang et al. 2020, arXiv:2002.09539 (local steps go on while the average of the models before
is under way); Streaming DiLoCo, Douillard et al. 2025, arXiv:2501.18512, section 2.3 (the average arrives steps later
and is merged into what the worker has by then). The merge here keeps all that was learnt meanwhile, z + (X - y), as
LOSCAR-SGD does, Maziane et al. 2026, arXiv:2605.20866.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedmb.telemetry.energy import Energy
    from fedmb.training.stretch import Budget, Learnt
    from fedmb.training.trainer import Trainer
    from fedmb.update import Arrays


class Underway:
    """A round's training, in one go or in several; random numbers go on where they were.

    Args:
        trainer: takes the steps.
        seed: of torch's generators, for the round.
        spent: energy on the client's meter when it began.
    """

    def __init__(self, trainer: Trainer, *, seed: int, spent: Energy) -> None:
        self.trainer = trainer
        self.spent = spent
        self.learnt: Learnt | None = None
        self._seed = seed
        self._generators: tuple[Tensor, Tensor | None] | None = None
        self._has_rung = False

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.learnt.steps if self.learnt else 0

    def run(self, budget: Budget, *, until_alarm: bool = False) -> Learnt:
        """Take steps until the budget of the whole round is used up; answers what was learnt since it began."""
        if self.learnt is not None and self._has_rung and until_alarm:
            return self.learnt
        device = self.trainer.step.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            if self._generators is None:
                torch.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._generators[0])
                if self._generators[1] is not None:
                    torch.cuda.set_rng_state(self._generators[1], device)
            self.learnt = self.trainer.run(budget, until_alarm=until_alarm, learnt=self.learnt)
            self._generators = (torch.get_rng_state(), torch.cuda.get_rng_state(device) if devices else None)
        self._has_rung |= self.trainer.watch is not None and self.trainer.watch.has_alarm
        return self.learnt


@torch.no_grad()
def rebase(model: nn.Module, *, before: Arrays, after: Arrays) -> None:
    """Keep what `model` learnt since it was `before`, on top of `after`.

    Parameters, and buffers that count, take the difference whole. Other floating buffers, such as batch-norm
    statistics, take it too but never leave the interval between their value and that of `after`: a variance that is
    moved freely may fall below 0.
    """
    parameters = {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        old, new = (torch.from_numpy(one[name].copy()).to(value.device, value.dtype) for one in (before, after))
        if value.dtype == torch.bool:
            value.copy_(new)
        elif name in parameters or not value.is_floating_point():
            value.add_(new - old)
        else:
            moved = value + (new - old)
            value.copy_(torch.clamp(moved, torch.minimum(value, new), torch.maximum(value, new)))
