import numpy as np
import torch

from fedmb.batch.minibatch import check_columns
from fedmb.batch.node_table import graph_among
from fedmb.batch.rows import Rows
from fedmb.tasks.communities import BETWEEN, WITHIN, Communities


def tensors(columns):
    return {name: torch.from_numpy(array) for name, array in columns.items()}


def test_a_network_has_the_neighbours_that_its_law_gives():
    task = Communities()
    rows = task.train_rows()
    graph = graph_among(rows)
    hearing = np.repeat(rows["community"], np.diff(graph.offsets))
    within = (rows["community"][graph.neighbours] == hearing).sum() / 2000

    assert check_columns(rows, task.schema) == 2000
    assert np.bincount(rows["community"]).tolist() == [200] * 10
    assert abs(within - WITHIN) < 0.3
    assert abs(len(graph.neighbours) / 2000 - within - BETWEEN) < 0.2


def test_a_part_of_the_network_is_a_graph_of_its_own():
    rows = Communities().train_rows()
    mine = {name: array[rows["community"] < 5] for name, array in rows.items()}
    part = graph_among(mine)

    assert part.num_nodes == 1000
    assert 8 < len(part.neighbours) / 1000 < 10.5  # without the edges to the five other communities


def test_test_nodes_come_with_all_their_neighbours_and_are_other_nodes():
    task = Communities()
    test = task.test_rows()
    features = {row.tobytes() for row in task.train_rows()["x"]}

    assert test["x_2"].shape[:1] == (400,)
    assert not any(row.tobytes() in features for row in test["x"])
    assert (test["hop_1_mask"].sum(1) == (test["x_1"] != 0).any(-1).sum(1)).all()


def reference(model, rows, seed):
    """One seed, node by node."""

    def layer(one, own, near):
        mean = torch.stack(near).mean(0) if near else torch.zeros(one.near.in_features)
        return one.own(own) + one.near(mean)

    first, second = rows["hop_1_mask"][seed], rows["hop_2_mask"][seed]
    near = [rows["x_1"][seed, one] for one in torch.nonzero(first).flatten()]
    hidden = []
    for one in torch.nonzero(first).flatten():
        beyond = [rows["x_2"][seed, one, two] for two in torch.nonzero(second[one]).flatten()]
        hidden.append(torch.relu(layer(model.first, rows["x_1"][seed, one], beyond)))
    return layer(model.second, torch.relu(layer(model.first, rows["x"][seed], near)), hidden)


def test_a_node_hears_two_hops_as_it_would_alone():
    task = Communities()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.build_model()
        for layer in (model.first, model.second):
            torch.nn.init.normal_(layer.near.weight)
    source = Rows.model_validate({"graph": {"fan_outs": [4, 3]}}).mixed(
        {"one": task.train_rows()}, seed=0, client="a", task=task
    )
    rows = tensors(source.take(12).columns)
    logits = task.forward(model, rows)

    for seed in range(12):
        assert torch.allclose(logits[seed], reference(model, rows, seed), atol=1e-5)


def test_an_untaught_model_is_that_of_the_nodes_alone():
    task = Communities()
    model = task.build_model()
    rows = tensors(task.test_rows())
    alone = {name: rows[name] for name in ("x", "community")}

    assert torch.equal(task.forward(model, rows), task.forward(model, alone))
    assert task.loss(task.forward(model, alone), alone).shape == (400,)
    assert set(task.metrics(task.forward(model, rows), rows)["accuracy"].tolist()) == {0.0, 1.0}
