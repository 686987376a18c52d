"""Balanced brackets of three kinds: rows of 2 to 40 symbols, a language whose next symbol a model is to tell.

At rest rows are padded to 40 symbols beside their mask, so they lie in files and streams like rows of one length; with
`[rows.buckets]` batches are only as long as their longest row. The loss is the mean over a row's symbols: batches that
count symbols as units learn what they would without padding.

The language of balanced brackets is the one every nested structure reduces to: Chomsky and Schützenberger 1963, "The
algebraic theory of context-free languages".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmb.batch.minibatch import Column, Columns
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedmb.training.task import Rows

KINDS = 3  # of brackets; symbol 0 is padding and a row's beginning, 1 to KINDS open, the next KINDS close
MOST_PAIRS = 20
LENGTH_CLASSES = 10  # so many labels as the digits have, so that the demo's streams may drift from short to long rows


class Brackets:
    """Tell the next symbol of a row with a recurrent network.

    Accuracy is that of closing brackets' kinds: a guess is right in a third of them, the best rule that looks at one
    symbol before it in 0.71, and what must be closed is open long before.
    """

    schema: Mapping[str, Column] = {
        "symbols": Column("uint8", (2 * MOST_PAIRS,)),
        "symbols_mask": Column("bool", (2 * MOST_PAIRS,)),
        "length_class": Column("uint8"),
    }
    label = "length_class"

    def build_model(self) -> nn.Module:
        """A gated recurrent unit of 32, 5,143 parameters in all."""
        return NextSymbol()

    def forward(self, model: nn.Module, rows: Rows) -> Tensor:
        """Logits of every symbol from those before it, `(examples, length, 1 + 2 * KINDS)`; any length."""
        before = functional.pad(rows["symbols"][:, :-1], (1, 0))
        logits: Tensor = model(before.long())
        return logits

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        """Mean cross entropy of each row's symbols, `(examples,)`."""
        symbols = rows["symbols"].long()
        losses = functional.cross_entropy(outputs.flatten(0, 1), symbols.flatten(), reduction="none")
        return _mean(losses.view(symbols.shape), rows["symbols_mask"])

    def metrics(self, outputs: Tensor, rows: Rows) -> Mapping[str, Tensor]:
        """Under "accuracy" the part of each row's closing brackets whose kind is the likeliest one, `(examples,)`."""
        symbols = rows["symbols"].long()
        closing = outputs[..., KINDS + 1 :].argmax(-1) + KINDS + 1
        return {"accuracy": _mean((closing == symbols).float(), rows["symbols_mask"] & (symbols > KINDS))}

    def units(self, columns: Columns) -> NDArray[np.float64]:
        """Symbols of each row, `(examples,)`: what its loss is the mean over, and half of them are closing brackets."""
        return self.difficulty(columns)

    def difficulty(self, columns: Columns) -> NDArray[np.float64]:
        """Length of each row, `(examples,)`: long ones nest deeper."""
        lengths: NDArray[np.float64] = columns["symbols_mask"].sum(axis=1, dtype=np.float64)
        return lengths

    def train_rows(self) -> Columns:
        """2,000 rows."""
        return balanced(2000, purpose="train")

    def test_rows(self) -> Columns:
        """400 other rows."""
        return balanced(400, purpose="test")


class NextSymbol(nn.Module):
    """Logits of the symbol behind each prefix."""

    def __init__(self) -> None:
        super().__init__()
        symbols = 1 + 2 * KINDS
        self.embedding = nn.Embedding(symbols, 16)
        self.recurrent = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits `(examples, length, symbols)` of symbols `(examples, length)`."""
        logits: Tensor = self.head(self.recurrent(self.embedding(symbols))[0])
        return logits


def balanced(count: int, *, purpose: str) -> dict[str, NDArray[Any]]:
    """`count` rows of balanced brackets, their lengths even between 2 and 40 symbols."""
    random = generator(0, "brackets", purpose)
    pairs = random.integers(1, MOST_PAIRS + 1, count)
    symbols = np.zeros((count, 2 * MOST_PAIRS), np.uint8)
    still_open = np.zeros((count, MOST_PAIRS), np.uint8)  # kinds, outermost first
    depth, opened = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for place in range(2 * MOST_PAIRS):
        kinds = random.integers(1, KINDS + 1, count).astype(np.uint8)
        lasts = place < 2 * pairs
        opens = lasts & (opened < pairs) & ((depth == 0) | (random.random(count) < 0.5))  # noqa: PLR2004  # a coin
        closes = lasts & ~opens
        symbols[opens, place] = kinds[opens]
        still_open[opens, depth[opens]] = kinds[opens]
        symbols[closes, place] = KINDS + still_open[closes, depth[closes] - 1]
        depth += opens.astype(np.int64) - closes
        opened += opens
    mask = np.arange(2 * MOST_PAIRS) < 2 * pairs[:, None]
    length_class = ((pairs - 1) * LENGTH_CLASSES // MOST_PAIRS).astype(np.uint8)
    return {"symbols": symbols, "symbols_mask": mask, "length_class": length_class}


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the places `(examples, length)` that a mask leaves, `(examples,)`."""
    return torch.where(mask, values, 0).sum(1) / mask.sum(1)
