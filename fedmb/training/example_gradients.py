"""Differentially private steps (DP-SGD): the gradient of every example shortened, and noise on their sum.

    g_i   = gradient of example i                           # Opacus' hooks, or functorch where it has none
    sum   = sum of g_i * min(1, clip_norm / |g_i|)          # over the parts of a batch, one after another
    grad  = (sum + N(0, (noise_multiplier * clip_norm) ** 2)) / rows          # one noise a step

`rows` are those of the batch, or those to be expected where chance decides how many come; it depends on no example. So
one example, whatever is in it, moves the sum by `clip_norm` at most, a micro-batch is memory and not mathematics, and
all that comes after (proximal term, guard, any optimiser, schedules, averages) sees the noised gradient alone.

An example whose gradient is not finite adds nothing. A model in which one example's gradient depends on another
example has no such bound: layers that are known for it are refused, and the first batch of two rows proves the rest.

Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1; Opacus: Yousefpour et al. 2021, arXiv:2109.12298.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedmb.errors import SettingsError
from fedmb.training.norm import BATCH_NORMS, FrozenNorm
from fedmb.training.regularize import DROPOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import MiniBatch

    Normals = Callable[[int], NDArray[np.float64]]
    Rows = Mapping[str, Tensor]

log = logging.getLogger(__name__)

PROVED = 2
"""Rows of the proof: enough for a mean, an order or a norm over rows to show, and few where memory is short."""
_CLOSE = 1e-3  # relative: single precision sums in another order are some 1e-6 apart


class ExampleGradients:
    """Makes a model's gradients private. Made once for a model: its layers carry hooks from then on.

    Args:
        model: trained in place, on its device, in single precision.
        clip_norm: longest gradient of an example, over all trained parameters.
        noise_multiplier: standard deviation of the noise on their sum, in clip_norms.
        normals: draws so many standard normal numbers.

    Raises:
        SettingsError: Opacus is not installed, or the model has a layer that mixes examples or that Opacus does not do.
    """

    def __init__(self, model: nn.Module, *, clip_norm: float, noise_multiplier: float, normals: Normals) -> None:
        self.clip_norm = clip_norm
        self.noise_multiplier = noise_multiplier
        self._normals = normals
        self._model = model
        self._names = {one: name for name, one in model.named_parameters() if one.requires_grad}
        self._parameters = list(self._names)
        self._is_proved = False
        self._wholes: list[Tensor | None] = []
        _hooked(model)

    def begin(self, batch: MiniBatch) -> None:
        """Start a step.

        Raises:
            SettingsError: rows weigh differently, so that one could move the sum by more than the others.
        """
        if batch.units is not None or batch.mask is not None:
            raise SettingsError(
                "a private step bounds each row alike, got rows with units or a mask; leave out what weighs or pads "
                "rows (buckets, graphs, prioritised replay), or set privacy.unit to update",
                key="privacy.unit",
            )

    def backward(self, losses: Tensor, total: float) -> None:
        """Add the shortened gradients of `losses`, `(examples,)`, over `total`, to the parameters' gradients.

        Raises:
            SettingsError: a parameter is used where no hook sees it, or a layer's first axis is not that of examples.
        """
        before = [parameter.grad for parameter in self._parameters]
        each = self._each(losses)
        norms = _lengths(each)
        shares = (self.clip_norm / norms).clamp(max=1.0) / total
        is_bad = ~norms.isfinite()
        some_are_bad = bool(is_bad.any())
        shares[is_bad] = 0.0
        for parameter, one, earlier in zip(self._parameters, each, before, strict=True):
            if one is None:
                parameter.grad = earlier
                continue
            if some_are_bad:
                one[is_bad] = 0.0  # nought times infinity is no number
            added = (shares @ one.flatten(1)).view_as(parameter)
            parameter.grad = added if earlier is None else earlier + added

    @torch.no_grad()
    def add_noise(self, total: float) -> None:
        """Add a step's noise to the gradients, once all parts of its batch are in them."""
        deviation = self.noise_multiplier * self.clip_norm / total
        sizes = [parameter.numel() for parameter in self._parameters]
        drawn = torch.split(torch.from_numpy(self._normals(sum(sizes)) * deviation), sizes)
        for parameter, flat in zip(self._parameters, drawn, strict=True):
            noise = flat.view_as(parameter).to(parameter.device, parameter.dtype)
            parameter.grad = noise if parameter.grad is None else parameter.grad + noise

    @property
    def wants_proof(self) -> bool:
        """Whether no rows have proved yet that they do not meet."""
        return not self._is_proved

    def prove(self, loss: Callable[[Rows], Tensor], rows: Rows) -> None:
        """Refuse a model where a row's gradient depends on rows beside it, or adds up to another than torch's.

        Dropout layers rest meanwhile. A model that draws other random numbers gives another gradient each time, and
        proves nothing. Rows that give no finite gradient leave the proof to later ones.

        Args:
            loss: of each example, of a forward pass over rows.
            rows: some, first axis examples.

        Raises:
            SettingsError: it does.
        """
        count = len(next(iter(rows.values())))
        device = self._parameters[0].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _resting(self._model):
            together = self._norms(loss(rows))
            single = [{name: one[at : at + 1] for name, one in rows.items()} for at in range(count)]
            alone, again = (torch.cat([self._norms(loss(one)) for one in single]) for _ in range(2))
        if not torch.cat([together, alone]).isfinite().all():
            return
        self._is_proved = True
        if not torch.equal(alone, again):
            log.info("rows not proved independent reason=the model draws random numbers")
        elif not torch.allclose(together, alone, rtol=_CLOSE, atol=_CLOSE * float(together.max())):
            raise SettingsError(
                "a row's gradient must not depend on rows beside it, got a model where it does; remove what mixes "
                "rows, or set privacy.unit to update",  # no lengths: the sentence goes to the server
                key="privacy.unit",
            )

    def _norms(self, losses: Tensor) -> Tensor:
        """Lengths of a few rows' gradients, which must add up to the gradient that torch finds.

        A parameter may be used beside its layer, where no hook sees it.
        """
        each = self._each(losses)
        close = _CLOSE * max(float(one.abs().sum(0).max()) for one in each if one is not None)
        for name, one, whole in zip(self._names.values(), each, self._wholes, strict=True):
            if one is None or whole is None or not whole.isfinite().all():
                continue
            if not torch.allclose(one.sum(0), whole, rtol=_CLOSE, atol=close):
                raise _unseen("ones that do not add up", name)
        return _lengths(each)

    def _each(self, losses: Tensor) -> Sequence[Tensor | None]:
        """Every parameter's gradients by example, `(examples, ...)`; None where the model did not use it."""
        for parameter in self._parameters:
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]  # Opacus' own
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first layer's, whose rows need none
            torch.autograd.backward(losses.sum())
        found: list[Tensor | None] = []
        self._wholes = [parameter.grad for parameter in self._parameters]
        for (parameter, name), whole in zip(self._names.items(), self._wholes, strict=True):
            each = parameter.grad_sample  # type: ignore[attr-defined]  # as above
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
            if each is None and whole is not None:
                raise _unseen("none", name)
            if each is not None and (not isinstance(each, Tensor) or len(each) != len(losses)):
                raise _unseen(f"{len(each)} for {len(losses)} rows", name)
            found.append(each)
        return found


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """Dropout layers drop nothing while the body runs."""
    layers = [(vars(layer), layer.p) for layer in model.modules() if isinstance(layer, DROPOUTS)]
    try:
        for values, _ in layers:
            values["p"] = 0.0
        yield
    finally:
        for values, chance in layers:
            values["p"] = chance


def _unseen(got: str, name: str) -> SettingsError:
    return SettingsError(
        f"every example must have a gradient of its own, got {got} of {name!r}; let its layer be called as a module, "
        "with the rows as its first axis, or set privacy.unit to update",
        key="privacy.unit",
    )


def _lengths(each: Sequence[Tensor | None]) -> Tensor:
    """Length of every example's gradient over all parameters, `(examples,)`."""
    lengths = [torch.linalg.vector_norm(one.flatten(1), dim=1) for one in each if one is not None]
    total: Tensor = torch.linalg.vector_norm(torch.stack(lengths), dim=0)
    return total


def _hooked(model: nn.Module) -> None:
    """Give a model's layers Opacus' hooks.

    Raises:
        SettingsError: as `ExampleGradients`.
    """
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.validators import ModuleValidator
    except ImportError as error:
        raise SettingsError(
            f"gradients by example take Opacus, got: {error}; pip install 'fedmb[privacy]'", key="privacy.unit"
        ) from error
    model.train()
    for layer in model.modules():
        if isinstance(layer, BATCH_NORMS) and not isinstance(layer, FrozenNorm):
            raise SettingsError(
                f"a row's gradient must not depend on rows beside it, got {layer}; set training.norm to group or layer",
                key="training.norm",
            )
        if getattr(layer, "inplace", None) is True:
            vars(layer)["inplace"] = False  # which would overwrite what the hooks still need; the result is the same
    try:
        ModuleValidator.validate(model, strict=True)
        GradSampleModule(model, loss_reduction="sum", strict=True)
    except (NotImplementedError, ValueError) as error:
        raise SettingsError(
            f"gradients by example are those that Opacus knows, got {error}; change the layer, or set privacy.unit to "
            "update",
            key="privacy.unit",
        ) from error
