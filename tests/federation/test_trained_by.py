"""What trained a version agrees with the log, whoever is asked: records, rows, and what was set aside."""

import json
import threading

import pytest
from numbered_streams import ROUND_ROWS, ROWS_PER_RECORD, Recording, Site, SlowGrid, first_state, ledger_at, loop_on

from fedmb.errors import SettingsError
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.trained_by import trained_by
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.log_source import LogSource


def trained(sites, rounds):
    """Every state of a run, by version, and the spans that were let in."""
    strategy, states = Recording(), {0: first_state()}
    loop = loop_on(
        SlowGrid(sites),
        {"count": rounds},
        strategy=strategy,
        on_round=lambda state, report: states.update({state.version: state}),
        stop=threading.Event(),
    )
    loop.run(states[0])
    return states, strategy


def records_in_log(site, first, last):
    """Records that hold a row between two positions, counted one by one."""
    reader = site.log.reader("rows", [0])
    records = reader.poll(1.0, 10_000)
    reader.close()
    return sum(first[0] <= record.offset and (record.offset, 0) < tuple(last) for record in records)


def test_the_records_are_those_of_the_accepted_spans(tmp_path):
    sites = [Site(tmp_path, name).append(rounds=6) for name in ("one", "other")]
    states, strategy = trained(sites, 5)
    about = trained_by(states[5])

    for site, stream in zip(sites, about["streams"], strict=True):
        whole = strategy.chained()[site.partition]
        assert (stream["partition"], stream["client"]) == (str(site.partition), site.name)
        assert (stream["from"], stream["to"]) == ([0, 0], list(whole.stop))
        assert stream["offsets"] == records_in_log(site, (0, 0), whole.stop) == 5 * ROUND_ROWS / ROWS_PER_RECORD
        assert about["rows"]["by_client"][site.name] == {"stream": site.learnt_rows(states[5].ledger)}
    assert about["rows"]["total"] == {"stream": 2 * 5 * ROUND_ROWS}
    assert json.loads(json.dumps(about)) == about


def test_since_an_earlier_version_only_what_came_after_is_told(tmp_path):
    site = Site(tmp_path, "one").append(rounds=6)
    states, _ = trained([site], 5)
    (stream,) = trained_by(states[5], states[2])["streams"]

    assert (stream["from"], stream["to"]) == (
        list(states[2].ledger[site.partition]),
        list(states[5].ledger[site.partition]),
    )
    assert stream["offsets"] == records_in_log(site, states[2].ledger[site.partition], states[5].ledger[site.partition])
    assert trained_by(states[5], states[2])["rows"]["total"] == {"stream": 3 * ROUND_ROWS}


def test_a_later_version_is_no_beginning(tmp_path):
    states, _ = trained([Site(tmp_path, "one").append(rounds=3)], 3)

    with pytest.raises(SettingsError, match="smaller --since"):
        trained_by(states[2], states[3])


def test_a_record_that_was_learnt_in_part_counts():
    (stream,) = trained_by(ServerState(1, {}, ledger_at(a=4 * ROWS_PER_RECORD + 1)))["streams"]

    assert (stream["to"], stream["offsets"], stream["client"]) == ([4, 1], 5, None)


def test_records_that_were_set_aside_are_named_where_their_log_is_at_hand(tmp_path):
    site = Site(tmp_path, "one").append()
    writer = site.log.writer("rows", 0)
    for _ in range(2):
        writer.append(b"no record of ours")
    writer.close()
    site.append(rounds=2)
    letters = FileLog.open(tmp_path / "letters", id="letters", fsync=FsyncPolicy.never(), create=True)
    reader = site.log.reader("rows", [0])
    site.trainer.source = site.trainer.stream = LogSource(reader, [site.codec], dead_letters=LogDeadLetters(letters))
    states, _ = trained([site], 3)
    bad = ROUND_ROWS // ROWS_PER_RECORD

    (known,) = trained_by(states[3], dead_letters={"one": [letters.path]})["streams"]
    (unknown,) = trained_by(states[3], dead_letters={"another": [letters.path]})["streams"]
    (later,) = trained_by(states[3], states[2], dead_letters={"": [letters.path]})["streams"]

    assert [letter["offset"] for letter in known["set_aside"]] == [bad, bad + 1]
    assert "DecodeError" in known["set_aside"][0]["error"]
    assert known["offsets"] - 2 == 3 * bad
    assert unknown["set_aside"] is None
    assert later["set_aside"] == []


def test_tables_are_told_by_their_passes_also_inside_a_mixture():
    first = {"ward": {"source": {"epoch": 1, "cursor": 8}}}
    mixed = {"draws": 9, "sources": {"2019": {"epoch": 3, "cursor": 0}, "2020": {"epoch": 0, "cursor": 4}}}
    last = {"ward": {"source": {"epoch": 7, "cursor": 2}, "trainer": {"epoch": 99}}, "other": {"source": mixed}}

    tables = trained_by(ServerState(5, {}, positions=last), ServerState(2, {}, positions=first))["tables"]

    assert tables == [
        {"client": "other", "table": "2019", "from": {}, "to": {"epoch": 3, "cursor": 0}},
        {"client": "other", "table": "2020", "from": {}, "to": {"epoch": 0, "cursor": 4}},
        {"client": "ward", "table": "", "from": {"epoch": 1, "cursor": 8}, "to": {"epoch": 7, "cursor": 2}},
    ]
