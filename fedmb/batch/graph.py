"""Mini-batches of a graph's nodes with sampled neighbourhoods.

Each seed node is an example and brings its own tree: hop 1 holds `fan_outs[0]` of its neighbours, hop 2
`fan_outs[1]` neighbours of each of those, and so on, padded where a node has fewer. So a batch of nodes is columns of
equal length like any other, can be split into micro-batches without changing the gradient, and adds up by units.

    node            (examples,)              int64, number of the seed
    x               (examples, features)     every feature column, of the seeds
    hop_1           (examples, f1)           int64, numbers of neighbours, 0 where there is none
    hop_1_mask      (examples, f1)           bool, False where there is none
    x_1             (examples, f1, features) every feature column, of the neighbours; zeros where there is none
    hop_2 ...       (examples, f1, f2)
    y               (examples,)              every target column, of the seeds only
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from fedmb.batch.gathered import GatheredSource
from fedmb.batch.minibatch import Column, Columns, MiniBatch, Schema
from fedmb.errors import SettingsError, ShapeError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.source import SourcePosition
    from fedmb.batch.table import Tail

ALL: Literal["all"] = "all"
FanOut: TypeAlias = int | Literal["all"]
"""Neighbours drawn of each node, without replacement; "all" is as many as the largest neighbourhood has."""


class Neighbourhoods(Protocol):
    """Draws neighbours."""

    @property
    def num_nodes(self) -> int:
        """Nodes, those without neighbours too."""
        ...

    @property
    def largest(self) -> int:
        """Neighbours of the node that has most."""
        ...

    def sample(
        self, nodes: NDArray[np.int64], fan_out: int, random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """`fan_out` neighbours of each node `(nodes,)`: numbers and mask, `(nodes, fan_out)`, 0 and False beyond."""
        ...


@dataclass(frozen=True, slots=True)
class Graph:
    """A directed graph in compressed sparse rows: node i hears `neighbours[offsets[i]:offsets[i + 1]]`."""

    offsets: NDArray[np.int64]
    neighbours: NDArray[np.int64]

    @classmethod
    def of(cls, edges: NDArray[Any], num_nodes: int) -> Graph:
        """The graph of `edges`, `(2, edges)`: sources above, the nodes that hear them below, as PyG's `edge_index`.

        Raises:
            ShapeError: edges are not two rows of node numbers.
        """
        edges = np.asarray(edges)
        pairs = 2
        if edges.ndim != pairs or len(edges) != pairs or edges.dtype.kind not in "iu":
            raise ShapeError(
                f"edges must be integers of shape (2, edges), got {edges.dtype} of {edges.shape}; transpose?"
            )
        if edges.size and not 0 <= edges.min() <= edges.max() < num_nodes:
            raise ShapeError(
                f"edges must join nodes 0 to {num_nodes - 1}, got {edges.min()} to {edges.max()}; raise num_nodes"
            )
        order = np.argsort(edges[1], kind="stable")
        degrees = np.bincount(edges[1], minlength=num_nodes)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(degrees)])
        return cls(offsets.astype(np.int64), edges[0][order].astype(np.int64))

    @property
    def num_nodes(self) -> int:
        """Nodes, those without neighbours too."""
        return len(self.offsets) - 1

    @property
    def largest(self) -> int:
        """Neighbours of the node that has most."""
        return int(np.diff(self.offsets).max(initial=0))

    def sample(
        self, nodes: NDArray[np.int64], fan_out: int, random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Neighbours of each node without replacement, all of them in order where there are at most `fan_out`.

        Source: Floyd's algorithm, Bentley and Floyd 1987, Communications of the ACM 30(9), for all nodes at once.
        """
        starts = self.offsets[nodes]
        degrees = self.offsets[nodes + 1] - starts
        places = np.broadcast_to(np.arange(fan_out), (len(nodes), fan_out)).copy()
        mask = places < degrees[:, None]
        crowded = np.flatnonzero(degrees > fan_out)
        drawn = np.empty((len(crowded), fan_out), np.int64)
        for step in range(fan_out if len(crowded) else 0):
            last = degrees[crowded] - fan_out + step
            pick = random.integers(0, last + 1)
            is_taken = (drawn[:, :step] == pick[:, None]).any(axis=1)
            drawn[:, step] = np.where(is_taken, last, pick)
        places[crowded] = drawn
        found = np.zeros(places.shape, np.int64)
        found[mask] = self.neighbours[(starts[:, None] + places)[mask]]
        return found, mask


@dataclass(frozen=True, slots=True)
class NeighbourTrees:
    """Seeds with sampled neighbourhoods as columns, the way the module describes.

    Trees repeat a node that several seeds share, so their memory grows with the product of the fan-outs.

    Args:
        graph: a `Graph`, or other `Neighbourhoods`.
        fan_outs: neighbours a node at each hop; `[25, 10]` is the paper's choice, `["all"]` one exact layer.
        features: columns over all nodes, `(nodes, ...)`, gathered for seeds and neighbours.
        targets: columns over all nodes, gathered for seeds only.

    Raises:
        SettingsError: a fan-out is below 1.
        ShapeError: a column is not one row a node, or two would have one name.

    Source: GraphSAGE, Hamilton et al. 2017, arXiv:1706.02216, algorithm 2 of appendix A.
    """

    graph: Neighbourhoods
    fan_outs: Sequence[FanOut]
    features: Columns
    targets: Columns = field(default_factory=dict)
    widths: tuple[int, ...] = field(init=False)
    """Fan-outs in numbers."""

    def __post_init__(self) -> None:
        if not self.fan_outs or any(one != ALL and (type(one) is not int or one < 1) for one in self.fan_outs):
            raise SettingsError(f"fan-outs must be 1 or more, or 'all', got {list(self.fan_outs)}", key="fan_outs")
        largest = max(1, self.graph.largest)
        object.__setattr__(self, "widths", tuple(largest if one == ALL else int(one) for one in self.fan_outs))
        for name, array in {**self.features, **self.targets}.items():
            if len(array) != self.graph.num_nodes or array.dtype.hasobject:
                raise ShapeError(
                    f"column {name!r} must hold a row for each of {self.graph.num_nodes} nodes, got {array.dtype} of "
                    f"shape {array.shape}; order it by node number"
                )
        names = [name for name, _ in self._entries()]
        if len(set(names)) < len(names):
            raise ShapeError(f"features, targets and hops need names of their own, got {sorted(names)}; rename")

    @property
    def schema(self) -> Schema:
        """Columns of every batch."""
        return dict(self._entries())

    def columns(self, nodes: NDArray[np.int64], random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The trees of some seeds `(examples,)`, neighbours drawn by `random`."""
        columns = {name: array.take(nodes, axis=0) for name, array in {**self.features, **self.targets}.items()}
        columns["node"] = nodes
        present = np.ones(len(nodes), np.bool_)
        for hop, fan_out in enumerate(self.widths, start=1):
            found, mask = self.graph.sample(nodes.ravel(), fan_out, random)
            nodes = found.reshape(*nodes.shape, fan_out)
            present = mask.reshape(nodes.shape) & present[..., None]
            nodes[~present] = 0  # neighbours of padding are padding
            columns[f"hop_{hop}"] = nodes
            columns[f"hop_{hop}_mask"] = present
            for name, array in self.features.items():
                gathered = array.take(nodes, axis=0)
                gathered[~present] = 0
                columns[f"{name}_{hop}"] = gathered
        return columns

    def _entries(self) -> list[tuple[str, Column]]:
        entries = [("node", Column("int64"))]
        entries += [(name, Column(a.dtype.name, a.shape[1:])) for name, a in self.features.items()]
        entries += [(name, Column(a.dtype.name, a.shape[1:])) for name, a in self.targets.items()]
        for hop in range(1, len(self.widths) + 1):
            tree = self.widths[:hop]
            entries += [(f"hop_{hop}", Column("int64", tree)), (f"hop_{hop}_mask", Column("bool", tree))]
            entries += [(f"{n}_{hop}", Column(a.dtype.name, (*tree, *a.shape[1:]))) for n, a in self.features.items()]
        return entries


def graph_source(
    trees: NeighbourTrees,
    *,
    nodes: NDArray[Any] | None = None,
    seed: int,
    client: str | int,
    tail: Tail = "balance",
) -> GatheredSource:
    """Mini-batches of seeds with their trees, seeds in the order of a `TableSource`, trees drawn anew in every epoch.

    Args:
        trees: makes the columns.
        nodes: numbers of the seeds; None is every node.
        seed: the run's seed.
        client: name or number of this site.
        tail: see `TableSource`.

    Raises:
        SettingsError: there is no seed, or seed or tail are out of range.
        ShapeError: a seed is no node.
    """
    num_nodes = trees.graph.num_nodes
    seeds = np.arange(num_nodes) if nodes is None else np.asarray(nodes, np.int64)
    if seeds.size and not 0 <= seeds.min() <= seeds.max() < num_nodes:
        raise ShapeError(f"seeds must be nodes 0 to {num_nodes - 1}, got {seeds.min()} to {seeds.max()}")

    def gather(numbers: NDArray[np.int64], place: SourcePosition) -> MiniBatch:
        random = generator(seed, client, place["epoch"], place["cursor"], "neighbours")
        return MiniBatch(trees.columns(numbers, random))

    return GatheredSource(seeds, gather, trees.schema, seed=seed, client=client, tail=tail)
