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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from fedmb.batch.minibatch import Column, Columns, MiniBatch, Schema
from fedmb.batch.table import TableSource, Tail
from fedmb.errors import SettingsError, ShapeError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.source import SourcePosition

ALL: Literal["all"] = "all"
FanOut: TypeAlias = int | Literal["all"]
"""Neighbours drawn of each node, without replacement; "all" is as many as the largest neighbourhood has."""


class Neighbourhoods(Protocol):
    """Draws neighbours."""

    num_nodes: int
    largest: int
    """Neighbours of the node that has most."""

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


class GraphSource:
    """Mini-batches of seed nodes, each with sampled neighbours as the module describes; a `BatchSource`.

    The order of seeds is that of a `TableSource`; neighbours are drawn anew in every epoch. Trees repeat a node that
    several seeds share, so the memory of a batch grows with the product of the fan-outs.

    Args:
        graph: a `Graph`, or other `Neighbourhoods`.
        fan_outs: neighbours a node at each hop; `[25, 10]` is the paper's choice, `["all"]` one exact layer.
        features: columns over all nodes, `(nodes, ...)`, gathered for seeds and neighbours.
        targets: columns over all nodes, gathered for seeds only.
        nodes: numbers of the seeds; None is every node.
        seed: the run's seed.
        client: name or number of this site.
        tail: see `TableSource`.

    Raises:
        SettingsError: a fan-out is below 1, there is no seed, or seed or tail are out of range.
        ShapeError: a column is not one row a node, or two would have one name.

    Source: GraphSAGE, Hamilton et al. 2017, arXiv:1706.02216, algorithm 2 of appendix A.
    """

    def __init__(
        self,
        graph: Neighbourhoods,
        fan_outs: Sequence[FanOut],
        features: Columns,
        *,
        targets: Columns | None = None,
        nodes: NDArray[Any] | None = None,
        seed: int,
        client: str | int,
        tail: Tail = "balance",
    ) -> None:
        if not fan_outs or any(fan_out != ALL and (type(fan_out) is not int or fan_out < 1) for fan_out in fan_outs):
            raise SettingsError(f"fan-outs must be 1 or more, or 'all', got {list(fan_outs)}", key="fan_outs")
        for name, array in {**features, **(targets or {})}.items():
            if len(array) != graph.num_nodes or array.dtype.hasobject:
                raise ShapeError(
                    f"column {name!r} must hold a row for each of {graph.num_nodes} nodes, got {array.dtype} of shape "
                    f"{array.shape}; order it by node number"
                )
        seeds = np.arange(graph.num_nodes) if nodes is None else np.asarray(nodes, np.int64)
        if seeds.size and not 0 <= seeds.min() <= seeds.max() < graph.num_nodes:
            raise ShapeError(f"seeds must be nodes 0 to {graph.num_nodes - 1}, got {seeds.min()} to {seeds.max()}")
        self._graph = graph
        self._fan_outs = [max(1, graph.largest) if fan_out == ALL else int(fan_out) for fan_out in fan_outs]
        self._features = dict(features)
        self._targets = dict(targets or {})
        self._seed = int(seed)
        self._client = client
        self._order = TableSource({"node": seeds}, seed=seed, client=client, tail=tail)
        self._schema = self._named_schema()

    @property
    def schema(self) -> Schema:
        """Columns of every batch."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Seeds."""
        return self._order.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """The next seeds of this epoch with their neighbours, at most `size` seeds.

        Raises:
            ValueError: `size` is below 1.
            SettingsError: `size` exceeds the seeds under tail "drop".
        """
        batch = self._order.take(size)
        seeds = batch.columns["node"]
        after = self._order.position()
        random = generator(self._seed, self._client, after["epoch"], after["cursor"], "neighbours")
        columns = {name: array.take(seeds, axis=0) for name, array in {**self._features, **self._targets}.items()}
        columns["node"] = seeds
        nodes, present = seeds, np.ones(len(seeds), np.bool_)
        for hop, fan_out in enumerate(self._fan_outs, start=1):
            found, mask = self._graph.sample(nodes.ravel(), fan_out, random)
            nodes = found.reshape(*nodes.shape, fan_out)
            present = mask.reshape(nodes.shape) & present[..., None]
            nodes[~present] = 0  # neighbours of padding are padding
            columns[f"hop_{hop}"] = nodes
            columns[f"hop_{hop}_mask"] = present
            for name, array in self._features.items():
                gathered = array.take(nodes, axis=0)
                gathered[~present] = 0
                columns[f"{name}_{hop}"] = gathered
        return MiniBatch(columns, origins=batch.origins)

    def position(self) -> SourcePosition:
        """Epoch and seeds of it already given, as a `TableSource` has."""
        return self._order.position()

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: it has other keys, or the cursor lies outside the seeds.
        """
        self._order.seek(position)

    def close(self) -> None:
        """Nothing to release: the graph is its maker's."""

    def _named_schema(self) -> dict[str, Column]:
        entries = [("node", Column("int64"))]
        entries += [(name, Column(a.dtype.name, a.shape[1:])) for name, a in self._features.items()]
        entries += [(name, Column(a.dtype.name, a.shape[1:])) for name, a in self._targets.items()]
        for hop in range(1, len(self._fan_outs) + 1):
            tree = tuple(self._fan_outs[:hop])
            entries += [(f"hop_{hop}", Column("int64", tree)), (f"hop_{hop}_mask", Column("bool", tree))]
            entries += [(f"{n}_{hop}", Column(a.dtype.name, (*tree, *a.shape[1:]))) for n, a in self._features.items()]
        schema = dict(entries)
        if len(schema) < len(entries):
            raise ShapeError(
                f"features, targets and hops need names of their own, got {sorted(name for name, _ in entries)}; rename"
            )
        return schema
