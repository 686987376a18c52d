import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedmb.errors import SettingsError
from fedmb.simulation.late_grid import LateGrid
from fedmb.simulation.population import Simulation
from fedmb.simulation.run import simulate
from fedmb.telemetry.run_directory import RunDirectory


def grid(**delays):
    app = ClientApp()

    @app.train()
    def train(message, context):
        return Message(RecordDict(), reply_to=message)

    return LateGrid(app, {2: {}, 3: {}}, {int(node[1:]): rounds for node, rounds in delays.items()})


def pushed(one, *nodes):
    return list(one.push_messages([Message(RecordDict(), dst_node_id=node, message_type="train") for node in nodes]))


def answered(one, ids):
    return [reply.metadata.src_node_id for reply in one.pull_messages(ids)]


def test_a_slow_nodes_reply_comes_with_a_later_round():
    one = grid(n3=2)
    first = pushed(one, 2, 3)

    assert answered(one, first) == [2]
    assert not one.can_answer(first[1:])
    assert one.withdraw(first) == []  # it is at work
    second = pushed(one, 2)
    assert answered(one, [*first, *second]) == [2]
    third = pushed(one)
    assert one.can_answer(first)
    assert answered(one, [*first, *third]) == [3]


def test_what_a_quick_node_has_not_begun_is_taken_back():
    one = grid(n3=1)
    ids = pushed(one, 2, 3)

    assert one.withdraw(ids) == ids[:1]


@pytest.mark.parametrize("delays", [{"n7": 1}, {"n2": -1}])
def test_delays_of_nobody_or_into_the_past_are_refused(delays):
    with pytest.raises(SettingsError, match="delays must be 0 or more rounds"):
        grid(**delays)


def settings(**late):
    return Simulation.model_validate(
        {
            "rounds": {"count": 6, "late": late},
            "private": {"clients": 3, "share": 0.3},
            "streamed": {"clients": 0},
            "slow": {"clients": 1, "rounds": 2},
            "training": {"steps": 3},
        }
    )


@pytest.mark.parametrize(
    ("late", "counted"),
    [({}, 0), ({"policy": "discount"}, 2), ({"policy": "discount", "buffer": 2}, 2)],
    ids=["drop", "discount", "buffer"],
)
def test_a_simulated_slow_client_counts_as_the_policy_says(tmp_path, late, counted):
    state = simulate(settings(**late), RunDirectory(tmp_path / "run"))
    again = simulate(settings(**late), RunDirectory(tmp_path / "again"))

    assert state.version == 6
    assert ("private-2" in state.positions) == bool(counted)
    assert state.positions == again.positions
    assert all((state.arrays[name] == again.arrays[name]).all() for name in state.arrays)


def test_a_simulation_of_slow_clients_alone_is_refused():
    with pytest.raises(ValueError, match=r"slow\.clients"):
        Simulation.model_validate(settings().model_dump() | {"slow": {"clients": 3, "rounds": 1}})
