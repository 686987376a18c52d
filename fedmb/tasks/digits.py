"""Handwritten digits: 1,797 real 8x8 images in ten classes, carried in the package.

Their rows are had without torch, so that a feeder can do without it.

Data: UCI "Optical Recognition of Handwritten Digits" (CC BY 4.0); see `data/LICENSE-digits.md`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Column, Columns
from fedmb.errors import SettingsError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fedmb.training.task import Rows

SIDE = 8  # pixels of an image's side
TEST_ROWS = 360  # a fifth, so that one row is 0.28 points of accuracy


class Digits:
    """Classify a digit with a multi-layer perceptron, 64-128-10."""

    schema: Mapping[str, Column] = {"image": Column("uint8", (64,)), "label": Column("uint8")}  # never changed
    label = "label"

    def build_model(self) -> nn.Module:
        """A perceptron of 9,610 parameters."""
        from torch import nn

        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, model: nn.Module, rows: Rows) -> Tensor:
        """Logits, `(examples, 10)`."""
        logits: Tensor = model(rows["image"].float() / 16)
        return logits

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        """Cross entropy of each example, `(examples,)`."""
        from torch.nn import functional

        return functional.cross_entropy(outputs, rows["label"].long(), reduction="none")

    def metrics(self, outputs: Tensor, rows: Rows) -> Mapping[str, Tensor]:
        """1 under "accuracy" where the likeliest class is the label, `(examples,)`."""
        return {"accuracy": (outputs.argmax(1) == rows["label"]).float()}

    def difficulty(self, columns: Columns) -> NDArray[np.float64]:
        """Squared distance of each image from the mean of its class in `columns`, `(examples,)`: odd ones are hard."""
        images, labels = columns["image"].astype(np.float64), columns["label"]
        scores = np.empty(len(labels))
        for label in np.unique(labels):
            members = labels == label
            scores[members] = ((images[members] - images[members].mean(0)) ** 2).sum(1)
        return scores

    def train_rows(self) -> Columns:
        """1,437 rows in a fixed shuffled order."""
        return _part(slice(TEST_ROWS, None))

    def test_rows(self) -> Columns:
        """360 rows that are never trained on."""
        return _part(slice(TEST_ROWS))


class ShiftedDigits:
    """The training digits five times: as they are and moved to each side, each made when it is asked for.

    A map-style dataset of tuples (image, label), as torch's are; by name `dataset:fedmb.tasks.digits:ShiftedDigits`,
    with `?pixels=2` behind it for another step. Row i is digit i // 5 moved in direction i % 5, in every process.

    Args:
        pixels: how far the digits are moved, 0 to 7.

    Raises:
        SettingsError: `pixels` is out of range.
    """

    def __init__(self, pixels: int = 1) -> None:
        if not 0 <= pixels < SIDE:
            raise SettingsError(f"digits move by 0 to {SIDE - 1} pixels, got {pixels}; choose one", key="pixels")
        columns = Digits().train_rows()
        self._images = np.pad(columns["image"].reshape(-1, SIDE, SIDE), ((0, 0), (pixels, pixels), (pixels, pixels)))
        self._labels = columns["label"]
        self._corners = [(pixels, pixels), (0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels)]

    def __len__(self) -> int:
        return len(self._labels) * len(self._corners)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        digit, direction = divmod(range(len(self))[index], len(self._corners))
        top, left = self._corners[direction]
        return self._images[digit, top : top + SIDE, left : left + SIDE].reshape(-1), int(self._labels[digit])


def _part(part: slice) -> dict[str, NDArray[Any]]:
    """Rows of the packaged file; the split's order has a seed of its own, so every run scores on the same rows."""
    with (
        files("fedmb.tasks").joinpath("data/digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as table,
    ):
        columns = {name: table[name] for name in ("image", "label")}
    order = generator(0, "digits split").permutation(len(columns["label"]))[part]
    return {name: array[order] for name, array in columns.items()}
