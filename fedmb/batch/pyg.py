"""Graphs of PyTorch Geometric, and its neighbour sampler: the extra `fedmb[graph]`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.collate import array_of
from fedmb.batch.graph import Graph
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEEDS = 1 << 31


def graph_of(data: Any) -> Graph:  # torch_geometric.data.Data, of a package that may be absent
    """The graph of a PyG `Data`, without PyG's sampler: edges from `data.edge_index`, nodes from `data.num_nodes`."""
    return Graph.of(array_of(data.edge_index), int(data.num_nodes))


class PygNeighbourhoods:
    """Draws neighbours with PyG's `NeighborLoader`, for `NeighbourTrees`; a `Neighbourhoods`.

    PyG draws from torch's global generator, which is seeded for each draw and put back afterwards. That generator is
    one for the whole process: do not put a `Prefetch` around this. A node that occurs twice among the nodes of a hop
    has the same neighbours in both places, as in PyG's own batches.

    Args:
        data: a `torch_geometric.data.Data`; may lie in a feature store of its own, only its edges are used.
        loader_options: passed on to `NeighborLoader`, such as `weight_attr` or `subgraph_type`.

    Raises:
        SettingsError: PyG is not installed; drawing raises it where only its compiled sampler, pyg-lib, is missing.

    Source: torch_geometric.loader.NeighborLoader, whose call samples for given nodes.
    """

    def __init__(self, data: Any, **loader_options: Any) -> None:  # see graph_of; options are PyG's
        try:
            self._make = importlib.import_module("torch_geometric.loader").NeighborLoader
            self._torch = importlib.import_module("torch")  # PyG needs it; this room does not
        except ImportError as error:
            raise _missing(error) from error
        self._data = data
        self._options = loader_options
        self._loaders: dict[int, Any] = {}
        graph = graph_of(data)
        self.num_nodes = graph.num_nodes
        self.largest = graph.largest

    def sample(
        self, nodes: NDArray[np.int64], fan_out: int, random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """`fan_out` neighbours of each node `(nodes,)`: numbers and mask, `(nodes, fan_out)`, 0 and False beyond."""
        if fan_out not in self._loaders:
            self._loaders[fan_out] = self._make(self._data, num_neighbors=[fan_out], **self._options)
        distinct, places = np.unique(nodes, return_inverse=True)
        with self._torch.random.fork_rng(devices=[]):
            self._torch.manual_seed(int(random.integers(SEEDS)))
            try:
                drawn = self._loaders[fan_out](distinct.tolist())
            except ImportError as error:  # PyG looks for its compiled sampler when it first draws
                raise _missing(error) from error
        sources, targets = array_of(drawn.edge_index)
        graph = Graph.of(np.stack([array_of(drawn.n_id)[sources], targets]), self.num_nodes)
        found, mask = graph.sample(np.arange(len(distinct)), fan_out, random)
        return found[places], mask[places]


def pyg_neighbourhoods(graph: Graph) -> PygNeighbourhoods:
    """PyG's sampler on a graph of ours.

    Raises:
        SettingsError: PyG is not installed.
    """
    try:
        data = importlib.import_module("torch_geometric.data")
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise _missing(error) from error
    targets = np.repeat(np.arange(graph.num_nodes), np.diff(graph.offsets))
    edges = torch.from_numpy(np.stack([graph.neighbours, targets]))
    return PygNeighbourhoods(data.Data(edge_index=edges, num_nodes=graph.num_nodes))


def _missing(error: ImportError) -> SettingsError:
    return SettingsError(
        f"PyG's sampler needs torch_geometric and pyg-lib, got: {error}; install the extra with pip install "
        "'fedmb[graph]' and pyg-lib as PyG's page says, or use fedmb.batch.graph.Graph"
    )
