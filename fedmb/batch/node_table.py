"""A graph at rest is a table like any other: a row a node, its neighbours in a padded column.

    node              (examples,)        integer, number of the node, no two alike
    neighbours        (examples, most)   integer, numbers of the nodes that it hears
    neighbours_mask   (examples, most)   bool, False where there is none
    x, ...            (examples, ...)    features
    y                 (examples, ...)    what is to be learnt of a node; its neighbours do not show it

So a graph lies in every file that a table lies in, and some rows of it are one client's part: what its nodes would
hear from nodes that are not in the table is not there either.

Source: parts of one graph that miss the edges between them, Zhang et al. 2021, arXiv:2106.13430, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fedmb.batch.collate import MASK_SUFFIX
from fedmb.batch.graph import Graph, Neighbourhoods, NeighbourTrees, graph_source
from fedmb.batch.minibatch import Columns, Schema, schema_of
from fedmb.batch.pyg import pyg_neighbourhoods
from fedmb.errors import SettingsError, ShapeError
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from fedmb.batch.gathered import GatheredSource
    from fedmb.batch.table import Tail

NODE, NEIGHBOURS = "node", "neighbours"
_COLUMNS = (NODE, NEIGHBOURS, NEIGHBOURS + MASK_SUFFIX)


class GraphRows(Section):
    """Mini-batches of nodes with trees of sampled neighbours."""

    fan_outs: tuple[Annotated[int, Field(ge=1)] | Literal["all"], ...] = Field(default=(10, 5), min_length=1)
    """Neighbours drawn of a node, a number for each hop; "all" takes as many as the largest neighbourhood has."""
    sampler: Literal["numpy", "pyg"] = "numpy"
    """Who draws: fedmb itself, or PyTorch Geometric with the extra fedmb[graph] and pyg-lib."""

    def source(
        self,
        columns: Columns,
        *,
        targets: Collection[str] = (),
        hops: int | None = None,
        seed: int,
        client: str,
        tail: Tail = "balance",
    ) -> GatheredSource:
        """Mini-batches of the nodes of a table, as `fedmb.batch.graph` describes them; nodes are numbered by row.

        Args:
            columns: the table, as the module describes it.
            targets: columns that are gathered for seeds only, such as labels.
            hops: hops that the model looks at; None is any number.
            seed: seed of the run.
            client: name of the client.
            tail: see `TableSource`.

        Raises:
            SettingsError: the table is none of nodes, the model looks less far, a fan-out is below 1, or PyG is absent.
            ShapeError: numbers, neighbours and mask do not fit each other.
        """
        if hops is not None and (beyond := len(self.fan_outs) - hops) > 0:
            raise SettingsError(
                f"a tree must not reach beyond the {hops} hops that the task's model looks at, got "
                f"{len(self.fan_outs)} fan-outs; leave the last {beyond} out",
                key="rows.graph.fan_outs",
            )
        graph = graph_among(columns)
        drawn: Neighbourhoods = pyg_neighbourhoods(graph) if self.sampler == "pyg" else graph
        features = {name: array for name, array in columns.items() if name not in {*_COLUMNS, *targets}}
        shown = {name: columns[name] for name in targets}
        return graph_source(NeighbourTrees(drawn, self.fan_outs, features, shown), seed=seed, client=client, tail=tail)


def graph_among(columns: Columns) -> Graph:
    """The graph among the nodes of a table, numbered by row; neighbours that are not in it are left out.

    Raises:
        SettingsError: the table has no columns of a graph.
        ShapeError: they do not fit each other.
    """
    _check(schema_of(columns))
    nodes, neighbours, mask = (columns[name] for name in _COLUMNS)
    order = np.argsort(nodes, kind="stable")
    known = nodes[order]
    if (known[1:] == known[:-1]).any():
        raise ShapeError(
            f"a node must have one row, got {known[1:][known[1:] == known[:-1]][0]} twice; drop the copies"
        )
    targets, places = np.nonzero(mask)
    heard = neighbours[targets, places]
    found = np.minimum(np.searchsorted(known, heard), len(known) - 1)
    here = known[found] == heard if len(known) else np.zeros(len(heard), np.bool_)
    return Graph.of(np.stack([order[found[here]], targets[here]]), len(nodes))


def node_columns(graph: Graph, most: int | None = None) -> dict[str, NDArray[Any]]:
    """The columns of a graph at rest: `node`, `neighbours` and `neighbours_mask`.

    Args:
        graph: its nodes are the rows, in order.
        most: length of the neighbours' column; None is that of the largest neighbourhood.

    Raises:
        ShapeError: a node has more neighbours.
    """
    width = max(1, graph.largest) if most is None else most
    if graph.largest > width:
        raise ShapeError(f"neighbours must fit into {width} places, a node has {graph.largest}; raise most")
    nodes = np.arange(graph.num_nodes)
    found, mask = graph.sample(nodes, width, np.random.default_rng(0))  # nothing is drawn: all of them fit
    return dict(zip(_COLUMNS, (nodes, found, mask), strict=True))


def _check(schema: Schema) -> None:
    """Demand the columns of a graph."""
    if missing := [name for name in _COLUMNS if name not in schema]:
        raise SettingsError(
            f"graph rows need a table of nodes with {', '.join(_COLUMNS)}, this one lacks {', '.join(missing)}; leave "
            "rows.graph out, or see fedmb.batch.node_table",
            key="rows.graph",
        )
    node, neighbours, mask = (schema[name] for name in _COLUMNS)
    integers = np.dtype(node.dtype).kind in "iu" and np.dtype(neighbours.dtype).kind in "iu"
    if not integers or node.shape or len(neighbours.shape) != 1 or mask != ("bool", neighbours.shape):
        raise ShapeError(
            f"nodes must be integers (examples,), neighbours integers and their mask bool (examples, most), got "
            f"{node}, {neighbours} and {mask}; convert them"
        )
