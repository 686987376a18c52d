"""A generated network of ten communities: nodes whose own features say little and whose neighbours say much.

At rest it is a table of nodes (`fedmb.batch.node_table`); with `[rows.graph]` each node of a batch brings a tree of
sampled neighbours. Without, nodes come alone and the model learns from their own features: what neighbours add is the
difference. Each client's part is a graph of its own, without the edges to other clients' nodes. Test nodes are those
of another network of the same law, so the model has to carry over to nodes it has never seen.

Sources: stochastic block model, Holland et al. 1983, Social Networks 5(2); GraphSAGE with mean aggregation, Hamilton et
al. 2017, arXiv:1706.02216, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmb.batch.graph import ALL, Graph, NeighbourTrees
from fedmb.batch.minibatch import Column, Columns
from fedmb.batch.node_table import node_columns
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedmb.training.task import Rows

COMMUNITIES = 10
FEATURES = 16
MOST_NEIGHBOURS = 32  # of a node; the largest neighbourhood of either network has 22
WITHIN, BETWEEN = 8.0, 3.0  # neighbours that a node has on average in its own community and in all others together
NOISE = 1.5  # of a feature, beside centres whose features have deviation 1/2


class Communities:
    """Tell a node's community from its features and those of its neighbours, two hops far."""

    schema: Mapping[str, Column] = {
        "node": Column("int64"),
        "neighbours": Column("int64", (MOST_NEIGHBOURS,)),
        "neighbours_mask": Column("bool", (MOST_NEIGHBOURS,)),
        "x": Column("float32", (FEATURES,)),
        "community": Column("uint8"),
    }
    label = "community"
    hops = 2

    def build_model(self) -> nn.Module:
        """Two layers of GraphSAGE, 1,706 parameters."""
        return TwoHops()

    def forward(self, model: nn.Module, rows: Rows) -> Tensor:
        """Logits of the seeds, `(examples, 10)`; where the rows have no hops, from their own features."""
        hops = [hop for hop in range(1, self.hops + 1) if f"x_{hop}" in rows]
        features = [rows["x"], *(rows[f"x_{hop}"] for hop in hops)]
        logits: Tensor = model(features, [rows[f"hop_{hop}_mask"] for hop in hops])
        return logits

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        """Cross entropy of each seed, `(examples,)`."""
        return functional.cross_entropy(outputs, rows["community"].long(), reduction="none")

    def metrics(self, outputs: Tensor, rows: Rows) -> Mapping[str, Tensor]:
        """1 under "accuracy" where the likeliest community is the right one, `(examples,)`; chance is 1/10."""
        return {"accuracy": (outputs.argmax(1) == rows["community"]).float()}

    def train_rows(self) -> Columns:
        """The 2,000 nodes of a network."""
        graph, columns = network(2000, purpose="train")
        return {**node_columns(graph, MOST_NEIGHBOURS), **columns}

    def test_rows(self) -> Columns:
        """The 400 nodes of another network, with the trees of all their neighbours."""
        graph, columns = network(400, purpose="test")
        trees = NeighbourTrees(graph, [ALL] * self.hops, {"x": columns["x"]}, {"community": columns["community"]})
        return trees.columns(np.arange(graph.num_nodes), generator(0, "every neighbour"))


class TwoHops(nn.Module):
    """Two layers: a node hears its neighbours and what these have heard from theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = MeanLayer(FEATURES, 32)
        self.second = MeanLayer(32, COMMUNITIES)

    def forward(self, features: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Logits of the seeds, `(examples, 10)`.

        Args:
            features: of the seeds, `(examples, features)`, and of each hop, `(examples, f1, features)` and so on.
            masks: of each hop, False where there is no neighbour.
        """
        near = [torch.relu(self.first(*one)) for one in _with_neighbours(features, masks)[:2]]
        logits: Tensor = self.second(*_with_neighbours(near, masks)[0])
        return logits


class MeanLayer(nn.Module):
    """A linear map of a node and one of the mean of its neighbours.

    The second starts at 0, so that it changes nothing until neighbours have taught it something.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, outputs)
        self.near = nn.Linear(inputs, outputs, bias=False)
        nn.init.zeros_(self.near.weight)

    def forward(self, own: Tensor, neighbours: Tensor | None, mask: Tensor | None) -> Tensor:
        """Nodes `(..., inputs)` with neighbours `(..., most, inputs)` and mask `(..., most)` to `(..., outputs)`."""
        hidden: Tensor = self.own(own)
        if neighbours is None or mask is None:
            return hidden
        total = torch.where(mask[..., None], neighbours, 0).sum(-2)
        near: Tensor = self.near(total / mask.sum(-1, keepdim=True).clamp(min=1))
        return hidden + near


def network(num_nodes: int, *, purpose: str) -> tuple[Graph, dict[str, NDArray[Any]]]:
    """A network of a fixed law: its graph, and features and community of each node."""
    centres = generator(0, "centres").normal(0, 0.5, (COMMUNITIES, FEATURES))
    random = generator(0, "network", purpose)
    community = random.permutation(np.arange(num_nodes) % COMMUNITIES)
    same = community[:, None] == community
    size = num_nodes / COMMUNITIES
    chance = np.where(same, WITHIN / size, BETWEEN / (num_nodes - size))
    one, other = np.nonzero(np.triu(random.random((num_nodes, num_nodes)) < chance, k=1))
    graph = Graph.of(np.stack([np.concatenate([one, other]), np.concatenate([other, one])]), num_nodes)
    x = centres[community] + random.normal(0, NOISE, (num_nodes, FEATURES))
    return graph, {"x": x.astype(np.float32), "community": community.astype(np.uint8)}


def _with_neighbours(values: list[Tensor], masks: list[Tensor]) -> list[tuple[Tensor, Tensor | None, Tensor | None]]:
    """(own, neighbours', mask) of the seeds and of each hop; the farthest has no neighbours here."""
    return [*zip(values, values[1:], masks, strict=False), (values[-1], None, None)]
