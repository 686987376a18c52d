"""The learning problem: what to change first.

It brings its own rows, so that `fedmb simulate` can play every client. With data of your own, drop `train_rows` and
`test_rows` and give each client a source.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from fedmb.batch.minibatch import Column, Columns
from fedmb.seeding import generator
from fedmb.training.task import Rows


class Rings:
    """Tell points of an inner ring from points of an outer one."""

    schema: Mapping[str, Column] = {"point": Column("float32", (2,)), "label": Column("uint8")}
    label = "label"

    def build_model(self) -> nn.Module:
        """A small perceptron."""
        return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, model: nn.Module, rows: Rows) -> Tensor:
        """Logits, `(examples, 2)`."""
        logits: Tensor = model(rows["point"])
        return logits

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        """Cross entropy of each example, `(examples,)`."""
        return functional.cross_entropy(outputs, rows["label"].long(), reduction="none")

    def metrics(self, outputs: Tensor, rows: Rows) -> Mapping[str, Tensor]:
        """1 where the likelier ring is the right one, `(examples,)`."""
        return {"accuracy": (outputs.argmax(1) == rows["label"]).float()}

    def train_rows(self) -> Columns:
        """1,000 points."""
        return points(1000, purpose="train")

    def test_rows(self) -> Columns:
        """250 other points."""
        return points(250, purpose="test")


def points(count: int, *, purpose: str) -> Columns:
    """`count` points on two noisy rings of radius 1 and 2."""
    random = generator(0, purpose)
    label = random.integers(0, 2, count).astype(np.uint8)
    angle = random.uniform(0, 2 * np.pi, count)
    radius = 1 + label + random.normal(0, 0.2, count)
    point = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    return {"point": point, "label": label}
