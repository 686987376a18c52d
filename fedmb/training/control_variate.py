"""SCAFFOLD on a client: gradients corrected by where everyone's point, and the client's own variate kept at its site.

    correction = mean - own                              # added to every batch's gradient
    own'       = (x - y) / reach - correction            # the round's mean gradient: y = x - reach * (it + correction)

The own variate is as large as the model and stays in the client's directory, by the version of the model that its
round goes into. Which version is in force stands in the client's position, which the server stores with the update
that it belongs to: an update that was dropped leaves the variate before it in force, on both sides.

Source: Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedmb.arrays.bfloat16 import widened
from fedmb.errors import SettingsError, ShapeError
from fedmb.training.kept_arrays import KeptArrays

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fedmb.aggregation.control_variates import Variate
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)

PLACE = "control"  # in a client's position: generation, and version in force


class Correction:
    """Adds the same to the gradients of every batch: once a batch, so that no cut of it shows.

    Args:
        parameters: those that are trained.
        correction: what is added, in their order.
    """

    def __init__(self, parameters: Collection[Tensor], correction: Collection[Tensor]) -> None:
        self._parameters = list(parameters)
        self._correction = list(correction)

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add to the gradients, after unscaling and before they are judged."""
        for parameter, added in zip(self._parameters, self._correction, strict=True):
            if parameter.grad is None:
                parameter.grad = added.clone()
            else:
                parameter.grad += added

    def state_dict(self) -> dict[str, Any]:
        """What is added, as tensors."""
        return {"correction": [each.clone() for each in self._correction]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._correction = [each.clone() for each in state["correction"]]


class RoundControl:
    """One round of a client's control variate.

    Args:
        kept: where own variates lie.
        names: arrays that have one.
        variate: the server's.
        position: the client's, as the server has it.
    """

    def __init__(self, kept: KeptArrays, names: Collection[str], variate: Variate, position: Mapping[str, Any]) -> None:
        self._kept = kept
        self._names = sorted(names)
        self._generation = variate.generation
        self._place = position.get(PLACE)
        self.is_lost = False
        own = self._own()
        self._correction = {
            name: np.array(widened(variate.mean[name]) - own[name] if own else widened(variate.mean[name]))
            for name in self._names
            if variate.mean
        }

    @property
    def _version(self) -> int | None:
        """The version in force; None where the client is at its beginning."""
        place = self._place
        return place[1] if isinstance(place, list) and place[0] == self._generation else None

    def _own(self) -> Arrays:
        version = self._version
        if version is None:
            return {}
        try:
            if version in self._kept.versions():
                return self._kept.load(version)
        except (OSError, ShapeError) as error:
            log.warning("control variate damaged version=%d reason=%s", version, error)
        log.warning("control variate lost version=%d kept=%s; everyone begins anew", version, self._kept.versions())
        self.is_lost = True
        return {}

    def edit(self, model: nn.Module) -> Correction:
        """What corrects the gradients of `model`'s parameters."""
        found = {name: one for name, one in model.named_parameters() if one.requires_grad and name in self._correction}
        added = [torch.from_numpy(self._correction[name]).to(one.device, one.dtype) for name, one in found.items()]
        return Correction(list(found.values()), added)

    def ended(self, before: Arrays, after: Arrays, *, reach: float, version: int) -> dict[str, Any]:
        """Keep the own variate that the round ends with, for `version`; answers what goes into the position.

        Raises:
            OSError: the disk is full or fails.
        """
        if reach == 0:  # nothing was learnt
            return {} if self._place is None else {PLACE: self._place}
        own = {}
        for name in self._names:
            old = widened(before[name])
            gradient = (old.astype(np.float64) - widened(after[name])) / reach
            if self._correction:
                gradient -= self._correction[name]
            own[name] = np.asarray(gradient, np.result_type(old.dtype, np.float32))
        self._kept.save(own, version, holding=self._version)
        return {PLACE: [self._generation, version]}


class OwnVariate:
    """A client's own variates, for the last versions.

    Args:
        names: arrays that have one: parameters that travel.
        directory: the client's own; None keeps them in memory.
    """

    def __init__(self, names: Collection[str], directory: Path | None = None) -> None:
        self._names = frozenset(names)
        self._kept = KeptArrays("control", directory)

    def round(self, variate: Variate | None, position: Mapping[str, Any]) -> RoundControl:
        """The next round's.

        Raises:
            SettingsError: the server sends none.
        """
        if variate is None:
            raise SettingsError(
                "control variates need a server that keeps their mean, got a strategy that sends none; take fedmb's "
                "own (MiniBatchFedAvg with control), or set training.control_variates to false",
                key="training.control_variates",
            )
        return RoundControl(self._kept, self._names, variate, position)
