"""Neighbour trees are drawn from the graph, fairly, and with all neighbours they are the full graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.graph import Graph, NeighbourTrees, graph_source
from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError, ShapeError

RANDOM = np.random.default_rng(0)
EDGES = np.unique(RANDOM.integers(0, 40, (2, 160)), axis=1)
FEATURES = {"x": RANDOM.integers(-8, 9, (40, 3)).astype(np.float64)}  # small integers add up exactly in any order


def source(fan_outs, edges=EDGES, nodes=None, targets=None):
    trees = NeighbourTrees(Graph.of(edges, 40), fan_outs, FEATURES, targets or {})
    return graph_source(trees, nodes=nodes, seed=6, client="a")


def neighbours_of(node):
    return EDGES[0][EDGES[1] == node].tolist()


def two_layers(self_weight, first, second, x):
    """Sum-aggregating network on the whole graph: the slow reference."""
    adjacency = np.zeros((40, 40))
    np.add.at(adjacency, (EDGES[1], EDGES[0]), 1)
    hidden = np.maximum(x @ self_weight + adjacency @ x @ first, 0)
    return np.maximum(hidden @ self_weight + adjacency @ hidden @ second, 0)


def test_a_block_of_all_neighbours_is_the_full_graph_exactly():
    self_weight, first, second = (RANDOM.integers(-3, 4, (3, 3)).astype(np.float64) for _ in range(3))
    expected = two_layers(self_weight, first, second, FEATURES["x"])

    for _ in range(6):
        rows = (batch := source(["all", "all"]).take(11)).columns
        hidden = np.maximum(rows["x"] @ self_weight + rows["x_1"].sum(1) @ first, 0)
        hidden_1 = np.maximum(rows["x_1"] @ self_weight + rows["x_2"].sum(2) @ first, 0)
        hidden_1[~rows["hop_1_mask"]] = 0
        out = np.maximum(hidden @ self_weight + hidden_1.sum(1) @ second, 0)
        assert np.array_equal(out, expected[rows["node"]])
        assert len(batch) in (10, 11)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_neighbours_are_real_distinct_and_as_many_as_there_are(fan_out, seed):
    graph, nodes = Graph.of(EDGES, 40), np.arange(40)

    found, mask = graph.sample(nodes, fan_out, np.random.default_rng(seed))

    for node in nodes:
        real, drawn = neighbours_of(node), found[node][mask[node]].tolist()
        assert len(set(drawn)) == len(drawn) == min(fan_out, len(real))
        assert set(drawn) <= set(real)
    assert not found[~mask].any()


def test_every_neighbour_is_drawn_equally_often():
    graph = Graph.of(np.stack([np.arange(1, 11), np.zeros(10, np.int64)]), 11)
    found, _ = graph.sample(np.zeros(20_000, np.int64), 4, np.random.default_rng(0))

    counts = np.bincount(found.ravel(), minlength=11)[1:]

    chi_square = ((counts - 8000) ** 2 / 8000).sum()
    assert chi_square < 21.7  # the 99th percentile of 9 degrees of freedom


def test_hops_hang_together_and_padding_has_no_children():
    rows = source([4, 2]).take(40).columns

    for row, node in enumerate(rows["node"]):
        for place, neighbour in enumerate(rows["hop_1"][row]):
            children = rows["hop_2"][row, place][rows["hop_2_mask"][row, place]].tolist()
            if rows["hop_1_mask"][row, place]:
                assert neighbour in neighbours_of(node)
                assert len(children) == min(2, len(neighbours_of(neighbour)))
                assert set(children) <= set(neighbours_of(neighbour))
            else:
                assert not children
    assert np.array_equal(rows["x_2"][rows["hop_2_mask"]], FEATURES["x"][rows["hop_2"][rows["hop_2_mask"]]])
    assert not rows["x_1"][~rows["hop_1_mask"]].any()


def test_seeds_come_once_per_epoch_with_their_targets_and_new_neighbours_each_epoch():
    nodes, targets = np.array([3, 5, 8, 13, 21]), {"y": np.arange(40) * 10}
    rows = source([1], nodes=nodes, targets=targets)
    epochs = [rows.take(5).columns for _ in range(8)]

    for columns in epochs:
        assert sorted(columns["node"]) == nodes.tolist()
        assert np.array_equal(columns["y"], columns["node"] * 10)
        assert "y_1" not in columns
    drawn = {tuple(columns["hop_1"][np.argsort(columns["node"]), 0]) for columns in epochs}
    assert len(drawn) > 1


def test_a_graph_without_edges_gives_padding():
    rows = source(["all", 3], edges=np.zeros((2, 0), np.int64)).take(4).columns

    assert rows["hop_2"].shape == (4, 1, 3)
    assert not rows["hop_1_mask"].any()


def test_the_schema_names_every_column():
    schema = source([4, 2], targets={"y": np.zeros(40, np.int8)}).schema

    assert schema["x_2"] == Column("float64", (4, 2, 3))
    assert schema["hop_2_mask"] == Column("bool", (4, 2))
    assert schema["y"] == Column("int8")


def test_what_is_no_graph_is_refused():
    for edges in (np.zeros((3, 2), np.int64), np.zeros(4, np.int64), np.zeros((2, 3))):
        with pytest.raises(ShapeError, match=r"integers of shape \(2, edges\)"):
            Graph.of(edges, 4)
    with pytest.raises(ShapeError, match="join nodes 0 to 3, got 0 to 4"):
        Graph.of(np.array([[0, 4], [1, 1]]), 4)
    for fan_outs in ([], [0], ["some"], [2.0]):
        with pytest.raises(SettingsError, match="fan-outs must be"):
            source(fan_outs)
    with pytest.raises(ShapeError, match="a row for each of 40 nodes"):
        source([2], targets={"y": np.zeros(39)})
    with pytest.raises(ShapeError, match="seeds must be nodes"):
        source([2], nodes=np.array([40]))
    with pytest.raises(SettingsError, match="at least one row"):
        source([2], nodes=np.zeros(0))
    with pytest.raises(ShapeError, match="names of their own"):
        source([2], targets={"x_1": np.zeros(40)})
