import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmb.errors import SettingsError
from fedmb.simulation.grid import InProcessGrid


def counting_app():
    app = ClientApp()

    @app.train()
    def train(message, context):
        calls = context.state.config_records.setdefault("calls", ConfigRecord({"n": 0}))
        calls["n"] += 1
        if context.node_config.get("fails"):
            raise RuntimeError("out of paper")
        answer = {"n": calls["n"], "node": context.node_id, "run": context.run_config["name"]}
        return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=message)

    return app


def grid(**nodes):
    return InProcessGrid(counting_app(), {3: {}, 2: {}, 9: {"fails": True}}, run_config={"name": "trial"})


def messages(*node_ids):
    return [Message(RecordDict(), dst_node_id=node, message_type="train") for node in node_ids]


def answers(replies):
    return [(reply.content["answer"]["node"], reply.content["answer"]["n"]) for reply in replies]


def test_nodes_answer_in_the_order_of_pulling_with_their_own_context():
    one = grid()
    ids = list(one.push_messages(messages(3, 2)))

    assert list(one.get_node_ids()) == [2, 3, 9]
    assert answers(one.pull_messages(reversed(ids))) == [(2, 1), (3, 1)]


def test_context_state_lives_on_from_message_to_message():
    one = grid()
    one.send_and_receive(messages(2))

    assert answers(one.send_and_receive(messages(2, 3))) == [(2, 2), (3, 1)]


def test_a_reply_is_given_once_and_unknown_ids_give_none():
    one = grid()
    ids = list(one.push_messages(messages(2)))
    first = list(one.pull_messages(ids))

    assert len(first) == 1
    assert list(one.pull_messages([*ids, "message-999"])) == []


def test_a_reply_names_its_message_its_node_and_its_run():
    one = grid()
    ids = list(one.push_messages(messages(3)))
    reply = next(iter(one.pull_messages(ids)))

    assert reply.metadata.reply_to_message_id == ids[0]
    assert reply.metadata.src_node_id == 3
    assert reply.content["answer"]["run"] == "trial"


def test_an_exception_in_the_app_becomes_an_error_reply_as_on_a_supernode():
    reply = next(iter(grid().send_and_receive(messages(9))))

    assert reply.has_error()
    assert "out of paper" in reply.error.reason


def test_a_message_to_an_unknown_node_is_refused():
    with pytest.raises(SettingsError, match=r"one of the nodes \[2, 3, 9\], got 77"):
        grid().push_messages(messages(77))


def test_a_grid_without_nodes_is_refused():
    with pytest.raises(SettingsError, match="ids from 1"):
        InProcessGrid(counting_app(), {})
