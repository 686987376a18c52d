"""A client's counts outlive the processes that answer its messages."""

import json

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedmb.federation.client_tally import FILE, ClientTally, tallied
from fedmb.federation.record_names import BASE_VERSION, METRICS, UPDATE, WEIGHT


class Reply:
    """As much of Flower's message as is looked at; a real one needs a run."""

    def __init__(self, version=None, rows=None, **told):
        self.content = RecordDict()
        if rows is not None:
            about = ConfigRecord({BASE_VERSION: version, "rows": json.dumps(rows)})
            units = float(sum(rows.values()))
            self.content = RecordDict({UPDATE: about, METRICS: MetricRecord({WEIGHT: units, **told})})

    def has_error(self):
        return not self.content


def values(directory):
    metrics = ClientTally(directory).metrics()
    return {(one.name, *one.labels.values()): one.value for family in metrics for one in family.samples}


def test_rounds_rows_and_failures_add_up(tmp_path):
    before = values(tmp_path)
    for reply in (Reply(4, {"stream": 10, "replay": 6}), Reply(), Reply(5, {"stream": 8})):
        assert tallied(tmp_path, lambda reply=reply: reply) is reply
    after = values(tmp_path)

    assert before[("fedmb_client_rounds_total",)] == 0
    assert ("fedmb_client_round",) not in before
    assert (after[("fedmb_client_rounds_total",)], after[("fedmb_client_failed_rounds_total",)]) == (2, 1)
    assert after[("fedmb_client_rows_total", "stream")] == 18
    assert after[("fedmb_client_rows_total", "replay")] == 6
    assert (after[("fedmb_client_round",)], after[("fedmb_client_last_round_units",)]) == (6, 8)
    assert 0 <= after[("fedmb_client_last_round_seconds",)] < after[("fedmb_client_round_seconds_total",)]
    assert ClientTally(tmp_path).line() == "rounds=2 failed=1 rows=24"


def test_what_a_private_client_has_told_is_shown_and_stays_when_it_takes_no_part_any_more(tmp_path):
    for reply in (Reply(4, {}, epsilon=1.5), Reply(5, {}, epsilon=2.5), Reply()):
        tallied(tmp_path, lambda reply=reply: reply)

    assert values(tmp_path)[("fedmb_client_epsilon",)] == 2.5


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_a_damaged_file_begins_anew(damage, tmp_path):
    (tmp_path / FILE).write_text(damage)

    tallied(tmp_path, lambda: Reply(0, {"private": 3}))

    assert ClientTally(tmp_path).line() == "rounds=1 failed=0 rows=3"
