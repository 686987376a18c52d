"""A graph at rest is a table of nodes, and some of its rows are the graph among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedmb.batch.graph import Graph
from fedmb.batch.node_table import GraphRows, graph_among, node_columns
from fedmb.errors import SettingsError, ShapeError

EDGES = np.unique(np.random.default_rng(0).integers(0, 30, (2, 120)), axis=1)
TABLE = {
    **node_columns(Graph.of(EDGES, 30), most=12),
    "x": np.arange(60, dtype=np.float32).reshape(30, 2),
    "y": (np.arange(30) % 3).astype(np.uint8),
}


def rows_of(table, index):
    return {name: array[index] for name, array in table.items()}


def edges_of(graph):
    targets = np.repeat(np.arange(graph.num_nodes), np.diff(graph.offsets))
    return sorted(zip(graph.neighbours.tolist(), targets.tolist(), strict=True))


@given(st.lists(st.integers(0, 29), unique=True, min_size=1))
def test_some_rows_are_the_graph_among_their_nodes_whatever_their_order(nodes):
    place = {node: row for row, node in enumerate(nodes)}
    expected = sorted((place[a], place[b]) for a, b in EDGES.T.tolist() if a in place and b in place)

    assert edges_of(graph_among(rows_of(TABLE, nodes))) == expected


def test_a_whole_table_is_the_graph_it_was_made_of():
    assert edges_of(graph_among(TABLE)) == sorted(map(tuple, EDGES.T.tolist()))


def test_nodes_may_have_any_numbers():
    named = TABLE | {"node": TABLE["node"] * 10**12 - 7, "neighbours": TABLE["neighbours"] * 10**12 - 7}

    assert edges_of(graph_among(named)) == edges_of(graph_among(TABLE))


def test_a_batch_has_what_neighbours_show_and_only_the_seeds_targets():
    source = GraphRows(fan_outs=(4, "all")).source(TABLE, targets=["y"], seed=0, client="a")
    columns = source.take(8).columns
    seeds, hop, mask = columns["node"], columns["hop_1"], columns["hop_1_mask"]

    assert {"x", "x_1", "x_2", "y"} <= columns.keys()
    assert not {"y_1", "neighbours", "neighbours_1"} & columns.keys()
    assert np.array_equal(columns["y"], TABLE["y"][seeds])
    assert np.array_equal(columns["x_1"][mask], TABLE["x"][hop[mask]])


def test_what_is_no_table_of_nodes_is_refused():
    with pytest.raises(SettingsError, match=r"lacks neighbours_mask; leave rows\.graph out"):
        graph_among({name: array for name, array in TABLE.items() if name != "neighbours_mask"})
    with pytest.raises(ShapeError, match="one row, got 4 twice"):
        graph_among(rows_of(TABLE, [3, 4, 5, 4]))
    with pytest.raises(ShapeError, match="nodes must be integers"):
        graph_among(TABLE | {"node": TABLE["node"] / 2})
    with pytest.raises(ShapeError, match="fit into 2 places"):
        node_columns(Graph.of(EDGES, 30), most=2)


def test_a_tree_beyond_the_model_is_refused():
    with pytest.raises(SettingsError, match=r"beyond the 2 hops .* got 3 fan-outs; leave the last 1 out"):
        GraphRows(fan_outs=(2, 2, 2)).source(TABLE, hops=2, seed=0, client="a")


@pytest.mark.parametrize("setting", [{"fan_outs": ()}, {"fan_outs": (0,)}, {"fan_outs": ("some",)}, {"sampler": "dgl"}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValidationError):
        GraphRows(**setting)
