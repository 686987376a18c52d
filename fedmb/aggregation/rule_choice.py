"""`[aggregation]`: which rule makes one model of a round's updates, by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.fednova import FedNova
from fedmb.aggregation.geometric_median import GeometricMedian
from fedmb.aggregation.krum import MultiKrum, krum
from fedmb.aggregation.privacy import Privacy
from fedmb.aggregation.rule import Mean
from fedmb.aggregation.server_optimizer_section import ServerOptimization
from fedmb.aggregation.stack import MEMORY_BYTES
from fedmb.errors import SettingsError
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fedmb.aggregation.rule import Rule

TOLD = {"trimmed_mean", "krum", "multi_krum"}  # rules that are told how many clients may be bad
WEIGHING = {"mean", "fednova", "clipped_mean", "geometric_median"}  # rules that read weights


class Aggregation(Section):
    """How the updates of a round become one model."""

    rule: Literal[
        "mean", "fednova", "clipped_mean", "trimmed_mean", "median", "geometric_median", "krum", "multi_krum"
    ] = "mean"
    """The mean trusts every client, and so does fednova, for clients that take different numbers of steps
    (docs/guide/drift.md); the others withstand some that send anything (docs/guide/robust.md)."""
    weights: Literal["units", "equal"] = "units"
    """What a client counts in a mean: by the units that it learnt, or every one the same."""
    bad_clients: int | None = Field(default=None, ge=1)
    """trimmed_mean, krum, multi_krum: clients that the rule withstands; those refused before it count among them."""
    chosen: int | None = Field(default=None, ge=1)
    """multi_krum: clients that are averaged; left out, all but the bad ones."""
    odd_medians: float | None = Field(default=None, gt=1)
    """multi_krum: of bad_clients, leave out only those whose score is more than so many medians; left out, all."""
    mixing: float = Field(default=0.0, ge=0, le=1)
    """multi_krum with odd_medians: share that the mean of its nearest has in what is averaged for a client."""
    clip_norm: float | None = Field(default=None, gt=0)
    """clipped_mean: longest change of the model that a client may make; left out, it follows the round's median."""
    clip_medians: float = Field(default=1.0, gt=0)
    """clipped_mean without clip_norm: the longest change, in median lengths of the round's changes."""
    optimizer: ServerOptimization = ServerOptimization()
    privacy: Privacy = Privacy()
    memory_bytes: int = Field(default=MEMORY_BYTES, ge=0)
    """Updates that wait in memory for the round to close; those beyond it wait in a file in the run's directory."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Aggregation:
        if self.rule in TOLD and self.bad_clients is None:
            raise ValueError(f"{self.rule} must be told how many clients may be bad, got none; set bad_clients")
        if self.rule not in TOLD and self.bad_clients is not None:
            raise ValueError(
                f"bad_clients is for {', '.join(sorted(TOLD))}, got it with {self.rule}; take one of them "
                "or leave it out"
            )
        if self.rule not in WEIGHING and self.weights != "units":
            raise ValueError(
                f"weights are read by {', '.join(sorted(WEIGHING))}, got {self.weights} with {self.rule}, which counts "
                "every client once; leave them out"
            )
        if self.rule != "multi_krum" and self.chosen is not None:
            raise ValueError(f"chosen is for multi_krum, got it with {self.rule}; take that or leave it out")
        if self.rule != "multi_krum" and (self.odd_medians is not None or self.mixing):
            raise ValueError(
                f"odd_medians and mixing are for multi_krum, got one with {self.rule}; take that or leave them out"
            )
        clips = self.clip_norm is not None or self.clip_medians != 1
        if self.rule != "clipped_mean" and clips:
            raise ValueError(f"clip_norm and clip_medians are for clipped_mean, got rule {self.rule}; leave them out")
        if self.clip_norm is not None and self.clip_medians != 1:
            raise ValueError(
                f"a longest change is clip_norm or follows the median, got {self.clip_norm} and "
                f"{self.clip_medians} medians; leave one out"
            )
        if self.privacy.is_on and (self.rule, self.weights) != ("mean", "equal"):
            raise ValueError(
                f"privacy is that of a mean in which every client counts the same, got rule {self.rule} and weights "
                f"{self.weights}; set rule to mean and weights to equal"
            )
        self.chosen_rule()  # which refuses what pydantic cannot see, such as an infinite norm
        return self

    def chosen_rule(self, parameters: Collection[str] | None = None) -> Rule:
        """The rule itself.

        Args:
            parameters: names of the arrays that are trained; every floating one if left out.
        """
        bad = self.bad_clients or 0
        rules: dict[str, Callable[[], Rule]] = {
            "mean": Mean,
            "fednova": lambda: FedNova(None if parameters is None else frozenset(parameters)),
            "clipped_mean": lambda: ClippedMean(self.clip_norm, self.clip_medians),
            "trimmed_mean": lambda: TrimmedMean(bad),
            "median": Median,
            "geometric_median": GeometricMedian,
            "krum": lambda: krum(bad),
            "multi_krum": lambda: MultiKrum(bad, self.chosen, self.odd_medians, self.mixing),
        }
        return rules[self.rule]()

    def check_against(self, clients: int, fraction_train: float, *, key: str) -> None:
        """Refuse a rule that could not work in rounds of so many clients.

        Args:
            clients: fewest that are connected when a round starts.
            fraction_train: share of them that is asked.
            key: name of the setting that says how many there are.

        Raises:
            SettingsError: fewer are asked than the rule needs.
        """
        least, asked = self.chosen_rule().least(), math.ceil(clients * fraction_train)
        if asked < least:
            raise SettingsError(
                f"{self.rule} needs at least {least} updates in a round, got {key} = {clients} of which "
                f"{asked} are asked; raise {key} or lower aggregation.bad_clients",
                key=key,
            )
