"""Looks at the gradient of a whole batch before it is used: OK, SKIP or ROLLBACK.

    guard = Clip(1.0) & Finite() & Spike(factor=8)
    report = guard(parameters)                    # once a batch: after unscaling, before the step

All rules share one total norm. It stays on the device unless a rule must read it: `Clip` alone costs no wait. `Finite`
and `Spike` read it once a batch. Their verdict cannot wait: a skipped batch moves no clock, so the rate of the next
step, momentum, averages and what the server is told all hang on it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor


class Verdict(IntEnum):
    """What to do with a gradient; of several verdicts the largest holds."""

    OK = 0
    """Take the step."""
    SKIP = 1
    """Leave the parameters alone; the batch was not learnt and its units do not count."""
    ROLLBACK = 2
    """Skip, and go back to the last good parameters."""


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What a guard said about one batch."""

    verdict: Verdict
    norm: Tensor
    """Total gradient norm before clipping, shape (), on the device."""


class GradientGuard(Protocol):
    """Judges gradients by their total norm; composed with `&`."""

    max_norm: float
    """Gradients longer than this are shortened to it; `math.inf` for any length."""
    reads_norm: bool
    """Whether `judge` is to be asked; it makes the host wait for the device."""

    def judge(self, norm: float) -> Verdict:
        """Verdict on a batch whose gradients have this total norm; called once a batch."""
        ...

    def __call__(self, parameters: Iterable[Tensor]) -> GuardReport:
        """Judge the gradients of `parameters`, and shorten them in place if the verdict is OK."""
        ...

    def __and__(self, other: GradientGuard) -> GradientGuard:
        """Both guards over one norm."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Memory as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


class Clip:
    """Shortens gradients whose total norm exceeds `max_norm`, once a batch.

    A norm that is not finite spoils what is clipped by it: combine with `Finite`.

    Source: Pascanu et al. 2013, arXiv:1211.5063, section 3.2, algorithm 1.
    """

    reads_norm = False

    def __init__(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise SettingsError(f"max_norm must be above 0, got {max_norm}; 1.0 is usual")
        self.max_norm = max_norm

    def judge(self, norm: float) -> Verdict:
        """Always OK."""
        return Verdict.OK

    def __call__(self, parameters: Iterable[Tensor]) -> GuardReport:
        """As `GradientGuard`."""
        return guarded(self, parameters)

    def __and__(self, other: GradientGuard) -> GradientGuard:
        return Both(self, other)

    def state_dict(self) -> dict[str, Any]:
        """Empty: it remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""


class Finite:
    """Skips a batch whose gradients are not all finite.

    Source: what loss scaling does for fp16 (Micikevicius et al. 2018, arXiv:1710.03740), for every format and cause.
    """

    max_norm = math.inf
    reads_norm = True

    def judge(self, norm: float) -> Verdict:
        """SKIP unless the norm is finite."""
        return Verdict.OK if math.isfinite(norm) else Verdict.SKIP

    def __call__(self, parameters: Iterable[Tensor]) -> GuardReport:
        """As `GradientGuard`."""
        return guarded(self, parameters)

    def __and__(self, other: GradientGuard) -> GradientGuard:
        return Both(self, other)

    def state_dict(self) -> dict[str, Any]:
        """Empty: it remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""


class Spike:
    """Skips a gradient much longer than the median of the last ones; the third in a row asks for a rollback.

    The level is learnt from the first half of the window, and learnt anew after a rollback: gradients that stay long
    are the new level, not an endless spike. A norm that is not finite is skipped but says nothing about the level; an
    fp16 overflow, for one, is mended by the next scale.

    Args:
        factor: how many medians make a spike.
        window: accepted batches that the median is taken over.
        patience: spikes in a row that ask for a rollback.

    Source: the rule is ours; Lightning's `spike.py` skips by the loss of the last batches.
    """

    max_norm = math.inf
    reads_norm = True

    def __init__(self, factor: float = 8.0, window: int = 64, *, patience: int = 3) -> None:
        if not factor > 1 or window < 2 or patience < 1:  # noqa: PLR2004  # half of a window must be a batch
            raise SettingsError(
                f"a spike needs factor above 1, window of 2 or more and patience of 1 or more, got {factor}, {window} "
                f"and {patience}; 8, 64 and 3 are the defaults"
            )
        self.factor = factor
        self.patience = patience
        self._norms: deque[float] = deque(maxlen=window)
        self._needed = window // 2
        self._in_a_row = 0

    def judge(self, norm: float) -> Verdict:
        """SKIP above `factor` medians, ROLLBACK for the last of `patience` in a row."""
        if not math.isfinite(norm):
            return Verdict.SKIP
        if len(self._norms) < self._needed or norm <= self.factor * median(self._norms):
            self._norms.append(norm)
            self._in_a_row = 0
            return Verdict.OK
        self._in_a_row += 1
        if self._in_a_row < self.patience:
            return Verdict.SKIP
        self._norms.clear()
        self._in_a_row = 0
        return Verdict.ROLLBACK

    def __call__(self, parameters: Iterable[Tensor]) -> GuardReport:
        """As `GradientGuard`."""
        return guarded(self, parameters)

    def __and__(self, other: GradientGuard) -> GradientGuard:
        return Both(self, other)

    def state_dict(self) -> dict[str, Any]:
        """Norms in the window and spikes in a row."""
        return {"norms": list(self._norms), "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._norms.clear()
        self._norms.extend(state["norms"])
        self._in_a_row = int(state["in_a_row"])


class Both:
    """Two guards over one norm: the graver verdict, the smaller limit."""

    def __init__(self, first: GradientGuard, second: GradientGuard) -> None:
        self._parts = (first, second)
        self.max_norm = min(first.max_norm, second.max_norm)
        self.reads_norm = first.reads_norm or second.reads_norm

    def judge(self, norm: float) -> Verdict:
        """The graver of both verdicts; both are asked, so that both remember."""
        return max(part.judge(norm) for part in self._parts)

    def __call__(self, parameters: Iterable[Tensor]) -> GuardReport:
        """As `GradientGuard`."""
        return guarded(self, parameters)

    def __and__(self, other: GradientGuard) -> GradientGuard:
        return Both(self, other)

    def state_dict(self) -> dict[str, Any]:
        """Memory of both."""
        first, second = self._parts
        return {"first": first.state_dict(), "second": second.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        first, second = self._parts
        first.load_state_dict(state["first"])
        second.load_state_dict(state["second"])


def guarded(guard: GradientGuard, parameters: Iterable[Tensor]) -> GuardReport:
    """Measure the gradients of `parameters` once, let `guard` judge them, and clip them if the verdict is OK."""
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    norm = total_norm(owners)
    verdict = guard.judge(float(norm)) if guard.reads_norm else Verdict.OK
    if verdict is Verdict.OK and not math.isinf(guard.max_norm):
        clip_grads_with_norm_(owners, guard.max_norm, norm)
    return GuardReport(verdict, norm)


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients of `parameters` as one vector, shape (), on the device."""
    return get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
