from fedmb.federation.cohort import of_groups
from fedmb.ledger import Ledger

LEDGER = Ledger.from_json({"c/t[0]": [3, 0], "c/t[1]": [7, 1], "c/u[0]": [9, 0], "file/t[0]": [5, 0]})


def test_a_member_of_a_group_hears_of_every_partition_that_may_come_to_it():
    position = {"source": {"fresh": {"ledger": {"c/t[1]": [7, 1]}, "group": "c/t"}, "draws": 4}, "trainer": {}}

    assert of_groups(LEDGER, position).to_json() == {"c/t[0]": [3, 0], "c/t[1]": [7, 1]}


def test_a_client_without_a_group_hears_of_nobody_elses_stream():
    assert of_groups(LEDGER, {"source": {"ledger": {"c/t[1]": [7, 1]}}}) == Ledger()
    assert of_groups(LEDGER, {}) == Ledger()
