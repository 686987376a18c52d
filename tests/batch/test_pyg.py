"""PyG's sampler serves our source; the double here has the two calls of its `NeighborLoader` that we use."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from fedmb.batch.graph import Graph, NeighbourTrees, graph_source
from fedmb.batch.pyg import PygNeighbourhoods, graph_of, pyg_neighbourhoods
from fedmb.errors import SettingsError

EDGES = torch.tensor([[1, 2, 3, 4, 0, 2, 0], [0, 0, 0, 0, 1, 1, 4]])
DATA = types.SimpleNamespace(edge_index=EDGES, num_nodes=5)


class LoaderDouble:
    """Samples for the nodes it is called with and renumbers: seeds first, then neighbours, as PyG does."""

    def __init__(self, data, *, num_neighbors, **options):
        self.edges, self.fan_out, self.options = data.edge_index, num_neighbors[0], options

    def __call__(self, index):
        n_id, sources, targets = list(index), [], []
        for place, node in enumerate(index):
            heard = self.edges[0][self.edges[1] == node]
            for neighbour in heard[torch.randperm(len(heard))[: self.fan_out]].tolist():
                if neighbour not in n_id:
                    n_id.append(neighbour)
                sources.append(n_id.index(neighbour))
                targets.append(place)
        return types.SimpleNamespace(n_id=torch.tensor(n_id), edge_index=torch.tensor([sources, targets]).long())


@pytest.fixture
def pyg(monkeypatch):
    package = types.ModuleType("torch_geometric")
    package.loader = types.ModuleType("torch_geometric.loader")
    package.loader.NeighborLoader = LoaderDouble
    package.data = types.ModuleType("torch_geometric.data")
    package.data.Data = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "torch_geometric", package)
    monkeypatch.setitem(sys.modules, "torch_geometric.loader", package.loader)
    monkeypatch.setitem(sys.modules, "torch_geometric.data", package.data)


def heard_by(node):
    return set(EDGES[0][EDGES[1] == node].tolist())


def test_a_pyg_graph_becomes_ours():
    graph = graph_of(DATA)

    assert (graph.num_nodes, graph.largest) == (5, 4)
    assert graph.sample(np.array([0]), 4, np.random.default_rng(0))[0].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("fan_out", [1, 2, 4])
def test_neighbours_come_from_pyg_under_our_numbers(pyg, fan_out):
    nodes = np.array([0, 3, 1, 0, 4])

    found, mask = PygNeighbourhoods(DATA).sample(nodes, fan_out, np.random.default_rng(0))

    for row, node in enumerate(nodes):
        drawn = found[row][mask[row]].tolist()
        assert len(set(drawn)) == len(drawn) == min(fan_out, len(heard_by(node)))
        assert set(drawn) <= heard_by(node)


def test_draws_follow_our_generator_and_leave_torchs_alone(pyg):
    nodes, sampler = np.zeros(6, np.int64), PygNeighbourhoods(DATA)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()

    same = [sampler.sample(nodes, 2, np.random.default_rng(5))[0].tolist() for _ in range(2)]
    other = {str(sampler.sample(nodes, 2, np.random.default_rng(seed))[0].tolist()) for seed in range(9)}

    assert same[0] == same[1]
    assert len(other) > 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_graph_source_over_pyg_resumes_bitwise(pyg):
    def opened():
        trees = NeighbourTrees(PygNeighbourhoods(DATA), [2, 1], {"x": np.arange(5.0)})
        return graph_source(trees, seed=0, client="a")

    source = opened()
    source.take(3)
    position, expected = source.position(), source.take(2)
    resumed = opened()
    resumed.seek(position)
    batch = resumed.take(2)

    assert all(batch.columns[name].tobytes() == expected.columns[name].tobytes() for name in batch.columns)


def test_options_reach_the_loader(pyg):
    sampler = PygNeighbourhoods(DATA, weight_attr="w")
    sampler.sample(np.array([0]), 2, np.random.default_rng(0))

    assert sampler._loaders[2].options == {"weight_attr": "w"}


def test_without_pyg_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.setitem(sys.modules, "torch_geometric.loader", None)

    with pytest.raises(SettingsError, match=r"pip install 'fedmb\[graph\]'"):
        PygNeighbourhoods(DATA)
    with pytest.raises(SettingsError, match=r"pip install 'fedmb\[graph\]'"):
        pyg_neighbourhoods(graph_of(DATA))


def test_pyg_draws_from_a_graph_of_ours(pyg):
    found, mask = pyg_neighbourhoods(Graph.of(EDGES.numpy(), 5)).sample(np.arange(5), 4, np.random.default_rng(0))

    assert [set(row[here].tolist()) for row, here in zip(found, mask, strict=True)] == [heard_by(n) for n in range(5)]


def test_without_its_compiled_sampler_the_error_says_where_it_comes_from(pyg, monkeypatch):
    def drawing(self, index):
        raise ImportError("'NeighborSampler' requires either 'pyg-lib' or 'torch-sparse'")

    monkeypatch.setattr(LoaderDouble, "__call__", drawing)

    with pytest.raises(SettingsError, match="pyg-lib as PyG's page says"):
        PygNeighbourhoods(DATA).sample(np.array([0]), 2, np.random.default_rng(0))
