"""Any optimiser of torch's kind as the server's: `before - combined` is the gradient of its step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fedmb.aggregation.server_optimizer import check_step, in_dtype, other_memory, stepped
from fedmb.arrays.bfloat16 import widened
from fedmb.errors import SettingsError
from fedmb.training.optimizer_choice import optimizer_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray
    from torch.optim.optimizer import Optimizer

    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

_STATE, _GROUP = "state", "group"
KEY = "aggregation.optimizer.name"


class TorchServerOptimizer:
    """A step of torch's optimiser on the pseudo-gradient, on the CPU, over the model's parameters by name.

    Args:
        name: `module:Class`, such as torch.optim:AdamW.
        rate: learning rate.
        options: further arguments of the class.
        parameters: names of the arrays that step; every floating one if left out.

    Raises:
        SettingsError: the class is no optimiser of torch's kind, or does not take its options.
    """

    def __init__(
        self,
        name: str,
        *,
        rate: float,
        options: Mapping[str, Any] | None = None,
        parameters: Collection[str] | None = None,
    ) -> None:
        self.name = name
        self.rate = rate
        self.options = dict(options or {})
        self.parameters = None if parameters is None else frozenset(parameters)
        self._tensors: dict[str, nn.Parameter] = {}
        self._optimizer: Optimizer | None = None
        self._loaded: Arrays = {}
        self._made([nn.Parameter(torch.zeros(2, 2))])  # a value that it does not take is refused now

    def step(self, before: Arrays, combined: Arrays) -> Model:
        """The next model, in the dtypes of `combined`.

        Raises:
            Diverged: a parameter is no longer finite.
            SettingsError: the optimiser keeps what a checkpoint cannot hold.
        """
        names = list(stepped(combined, self.parameters))
        optimizer = self._optimizer or self._begun({name: widened(before[name]) for name in names})
        with torch.no_grad():
            for name in names:
                old = torch.from_numpy(np.array(widened(before[name])))
                self._tensors[name].copy_(old)
                self._tensors[name].grad = old - torch.from_numpy(np.array(widened(combined[name])))
        optimizer.step()
        model = dict(combined)
        for name in names:
            model[name] = in_dtype(self._tensors[name].detach().numpy().copy(), combined[name].dtype)
        check_step(model)
        self.state_dict()  # which refuses what it cannot hold, before a checkpoint needs it
        return model

    def state_dict(self) -> Model:
        """What torch's optimiser keeps of each parameter, and numbers of its group that its steps have changed."""
        if self._optimizer is None:
            return {name: np.array(array) for name, array in self._loaded.items()}
        found: Model = {}
        names = list(self._tensors)
        for number, kept in self._optimizer.state_dict()["state"].items():
            for key, value in kept.items():
                if value is not None:
                    found[f"{_STATE}/{key}/{names[number]}"] = self._array(key, value)
        group, fresh = self._optimizer.param_groups[0], self._optimizer.defaults
        for key, value in group.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if key != "params" and is_number and value != fresh.get(key):
                found[f"{_GROUP}/{key}"] = np.asarray(value)
        return found

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from what `state_dict` gave; an empty one is a beginning.

        Raises:
            SettingsError: it is another optimiser's.
        """
        for key in state:
            if key.partition("/")[0] not in {_STATE, _GROUP}:
                raise other_memory(self.name, key.partition("/")[0])
        self._tensors, self._optimizer = {}, None
        self._loaded = {name: np.array(array) for name, array in state.items()}

    def _begun(self, parameters: Arrays) -> Optimizer:
        self._tensors = {name: nn.Parameter(torch.from_numpy(np.array(one))) for name, one in parameters.items()}
        self._optimizer = self._made(list(self._tensors.values()))
        for key, array in self._loaded.items():
            kind, _, rest = key.partition("/")
            word, _, name = rest.partition("/")
            value = torch.from_numpy(np.array(array)) if array.ndim or kind == _STATE else array.item()
            if kind == _GROUP:
                self._optimizer.param_groups[0][word] = value
            elif name in self._tensors:
                self._optimizer.state[self._tensors[name]][word] = value
            else:
                raise other_memory(self.name, key)
        self._loaded = {}
        return self._optimizer

    def _made(self, parameters: list[nn.Parameter]) -> Optimizer:
        options = dict(self.options)
        momentum, weight_decay = (float(options.pop(key, 0.0)) for key in ("momentum", "weight_decay"))
        try:
            return optimizer_of(
                self.name,
                parameters,
                learning_rate=self.rate,
                momentum=momentum,
                weight_decay=weight_decay,
                options=options,
            )
        except SettingsError as error:
            raise SettingsError(f"aggregation.optimizer: {error}", key=KEY) from error

    def _array(self, key: str, value: object) -> NDArray[Any]:
        if isinstance(value, torch.Tensor):
            return value.detach().cpu().numpy().copy()
        raise SettingsError(
            f"an optimiser of the server must keep tensors, got {type(value).__name__} {key!r} in {self.name}; take "
            "one of torch.optim",
            key=KEY,
        )

    def __str__(self) -> str:
        return f"{self.name}(rate={self.rate:g})"
