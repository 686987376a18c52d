"""`[aggregation.optimizer]`: which step the server takes from one model towards the next, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from fedmb.aggregation.directions import Adagrad, Adam, Momentum, Yogi
from fedmb.aggregation.server_optimizer import Stepping
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fedmb.aggregation.directions import Direction
    from fedmb.aggregation.server_optimizer import ServerOptimizer

_READ = {
    "none": set[str](),
    "fedavgm": {"rate", "momentum"},
    "fedadam": {"rate", "betas", "tau"},
    "fedyogi": {"rate", "betas", "tau"},
    "fedadagrad": {"rate", "tau"},
}
_OF_TORCH = {"rate", "options"}


class ServerOptimization(Section):
    """The step that the server takes from the model before towards what the rule made of the clients'."""

    name: (
        Literal["none", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] | Annotated[str, Field(pattern="^[^:]+:.+$")]
    ) = "none"
    """none takes the rule's model as it is; or a class of torch.optim's kind, as torch.optim:AdamW, on the
    pseudo-gradient. See docs/guide/drift.md."""
    rate: float | None = Field(default=None, gt=0)
    """Learning rate of the server; left out, 1 for fedavgm and 0.1 for the others. A class of torch's needs one."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """fedavgm: what is kept of the steps before."""
    betas: tuple[float, float] = (0.9, 0.99)
    """fedadam, fedyogi: what is kept of the first and of the second moment."""
    tau: float = Field(default=1e-3, gt=0)
    """fedadam, fedyogi, fedadagrad: added to the root of the second moment; small adapts more."""
    options: dict[str, bool | int | float | str | tuple[float, ...]] = Field(default_factory=dict)
    """Further arguments of a class of torch's, as { betas = [0.9, 0.95] }."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> ServerOptimization:
        read = _OF_TORCH if self.is_of_torch else _READ[self.name]
        for key in ("rate", "momentum", "betas", "tau", "options"):
            value, default = (
                getattr(self, key),
                ServerOptimization.model_fields[key].get_default(call_default_factory=True),
            )
            if key not in read and value != default:
                raise ValueError(f"{key} is not read by {self.name}, got {value}; leave it out or take another name")
        if self.is_of_torch and self.rate is None:
            raise ValueError(f"a class of torch's must be told its rate, got none for {self.name}; set rate")
        if not self.is_of_torch:
            self.chosen()  # which refuses what pydantic cannot see, such as an infinite rate
        return self

    @property
    def is_of_torch(self) -> bool:
        """Whether it is named as `module:Class`, which numpy knows nothing of."""
        return ":" in self.name

    def chosen(self, parameters: Collection[str] | None = None) -> ServerOptimizer | None:
        """The optimiser itself, of ours; None for none.

        Args:
            parameters: names of the arrays that step; every floating one if left out.
        """
        directions: dict[str, Callable[[], Direction]] = {
            "fedavgm": lambda: Momentum(self.momentum),
            "fedadam": lambda: Adam(self.betas, self.tau),
            "fedyogi": lambda: Yogi(self.betas, self.tau),
            "fedadagrad": lambda: Adagrad(self.tau),
        }
        if self.name not in directions:
            return None
        rate = self.rate or (1.0 if self.name == "fedavgm" else 0.1)
        return Stepping(directions[self.name](), rate=rate, parameters=parameters)
