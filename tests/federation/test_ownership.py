from numbered_streams import BATCH, STEPS, Numbers, Site, first_state, loop_on

from fedmb.federation.client import client_app
from fedmb.federation.ownership import of_groups, owner_of, owners_in
from fedmb.ingest.log_source import LogSource
from fedmb.ledger import Ledger, StreamPartition
from fedmb.simulation.grid import InProcessGrid
from fedmb.training.local_update import LocalUpdate
from fedmb.training.recipe import Training

LEDGER = Ledger.from_json({"c/t[0]": [3, 0], "c/t[1]": [7, 1], "c/u[0]": [9, 0], "file/t[0]": [5, 0]})


def test_a_member_of_a_group_hears_of_every_partition_that_may_come_to_it():
    position = {"source": {"fresh": {"ledger": {"c/t[1]": [7, 1]}, "group": "c/t"}, "draws": 4}, "trainer": {}}

    assert of_groups(LEDGER, position).to_json() == {"c/t[0]": [3, 0], "c/t[1]": [7, 1]}


def test_a_client_without_a_group_hears_of_nobody_elses_stream():
    assert of_groups(LEDGER, {"source": {"ledger": {"c/t[1]": [7, 1]}}}) == Ledger()
    assert of_groups(LEDGER, {}) == Ledger()


def test_an_owner_is_who_stands_in_a_partition_unless_a_group_dealt_it_out():
    positions = {
        "a": {"source": {"fresh": {"ledger": {"c/t[0]": [3, 0]}, "turn": 0}, "draws": 1}},
        "b": {"source": {"ledger": {"c/t[1]": [7, 1]}, "group": "c/t"}},
        "c": {"source": {"ledger": "of another form"}},
    }
    first, second = (StreamPartition("c", "t", number) for number in (0, 1))

    assert owner_of(first, positions, other_than="b") == "a"
    assert owner_of(first, positions, other_than="a") is None
    assert owner_of(second, positions, other_than="a") is None
    assert owner_of(first, {}, other_than="a") is None


def test_owners_are_told_at_once_for_all_partitions():
    positions = {
        "b": {"source": {"ledger": {"c/t[1]": [7, 1], "c/u[0]": [0, 0]}, "group": "c/t"}},
        "a": {"source": {"fresh": {"ledger": {"c/t[0]": [3, 0]}, "turn": 0}, "draws": 1}},
        "c": {"source": {"ledger": {"c/t[0]": [9, 0]}}},
        "d": {"source": 7},
    }

    assert owners_in(positions) == {"c/t[0]": "a", "c/u[0]": "b"}


def test_a_second_reader_of_a_partition_hears_in_every_round_whose_it_is(tmp_path):
    site = Site(tmp_path, "meters")
    site.append(rounds=4)

    def client(name):
        source = LogSource(site.log.reader("rows", [0]), [site.codec])
        training = Training.plain(batch_size=BATCH, steps=STEPS, learning_rate=0.01)
        return LocalUpdate(Numbers(), source, training, client=name, seed=0, stream=source)

    clients = {name: client(name) for name in ("a", "b")}
    app = client_app(lambda context: clients[context.node_config["client"]])
    grid, reports = InProcessGrid(app, {2: {"client": "a"}, 3: {"client": "b"}}), []
    state = loop_on(grid, {"count": 3}, on_round=lambda _, report: reports.append(report)).run(first_state())

    (owner,) = state.positions
    other = "b" if owner == "a" else "a"
    said = (
        f"a partition must have one owner, meters/rows[0] is learnt by '{owner}', got rows of it from '{other}' too; "
        f"give '{other}' a partition of its own, or let a group= deal them out"
    )
    assert [report.rejected for report in reports] == [{other: said}] * 3
    assert site.learnt_rows(state.ledger) == 3 * BATCH * STEPS
