"""Records that were set aside are told from wherever their letters lie: a folder, a log's URL, a broker's."""

from contextlib import closing

import pytest
from kafka_topics import fill, fill_in_transactions

from fedmb.cli import main
from fedmb.errors import DecodeError, SettingsError, Unreachable
from fedmb.exit_codes import ExitCode
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.set_aside import SetAside
from fedmb.federation.trained_by import trained_by
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.log import Record
from fedmb.ingest.stream_url import open_log
from fedmb.ledger import Ledger, StreamPartition


def set_aside(log, partition, *offsets):
    """Letters of records of a partition in a log."""
    with closing(LogDeadLetters(log)) as letters:
        for offset in offsets:
            letters.set_aside(Record(partition, offset, 0, b"broken", {}), DecodeError(f"no row at {offset}"))


def state_at(partition, offset):
    return ServerState(1, {}, Ledger.from_json({str(partition): [offset, 0]}))


@pytest.mark.parametrize("form", ["{}/letters", "file://{}/letters?topic=rows", "file://{}/letters?topic=rows.dlq"])
def test_letters_in_a_folder_are_found_by_its_path_and_by_the_streams_url(form, tmp_path):
    partition = StreamPartition("meter", "rows", 3)
    set_aside(open_log(f"file://{tmp_path}/letters?topic=rows"), partition, 2, 7, 9)
    (stream,) = trained_by(state_at(partition, 9), dead_letters={"": [form.format(tmp_path)]})["streams"]

    assert stream["offsets"] == 9
    assert [letter["offset"] for letter in stream["set_aside"]] == [2, 7]
    assert stream["set_aside"][0]["error"] == "DecodeError: no row at 2"


def test_a_url_of_another_topic_says_nothing(tmp_path):
    log = open_log(f"file://{tmp_path}/letters?topic=other")
    place = SetAside.opened(f"file://{tmp_path}/letters?topic=other")

    assert not place.may_hold(StreamPartition(log.id, "rows", 0))
    assert place.may_hold(StreamPartition("elsewhere", "other", 0))
    assert SetAside.opened(log.path).may_hold(StreamPartition("elsewhere", "rows", 0))


def test_a_place_without_letters_is_refused(tmp_path):
    for place in (tmp_path / "nowhere", f"file://{tmp_path}/nowhere?topic=rows"):
        with pytest.raises(SettingsError, match="must exist before it is opened"):
            SetAside.opened(place)


def test_letters_beside_a_brokers_topic_are_found_by_its_url(kafka, topic, tmp_path, capsys):
    log = open_log(f"kafka://{kafka.address}/{topic}")
    partition = StreamPartition(log.id, topic, 0)
    fill(kafka.address, topic, [b"record"] * 5)
    set_aside(log, partition, 1, 3)
    checkpoint.save(tmp_path / "run" / "checkpoints", state_at(partition, 5))
    code = main(["model", "show", f"{tmp_path}/run", "--dead-letters", f"kafka://{kafka.address}/{topic}?codecs=json"])
    shown = capsys.readouterr().out

    assert code == ExitCode.OK
    assert f"{partition} 0 to 5: 5 offsets, 2 set aside\n" in shown
    assert "set aside at 1: DecodeError: no row at 1\n" in shown
    assert "set aside at 3: DecodeError: no row at 3\n" in shown


def test_a_brokers_url_vouches_for_its_own_cluster_alone(kafka, topic):
    fill(kafka.address, topic, [b"record"])
    place = f"kafka://{kafka.address}/{topic}.dlq"
    ours, theirs = (StreamPartition(name, topic, 0) for name in (open_log(place).id, "another-cluster"))

    found = [trained_by(state_at(one, 1), dead_letters={"": [place]})["streams"][0] for one in (ours, theirs)]

    assert [one["set_aside"] for one in found] == [[], None]


def test_offsets_that_hold_no_record_are_no_letters(kafka, topic):
    fill_in_transactions(kafka.address, topic, [(3, True), (2, False), (1, True)])
    log = open_log(f"kafka://{kafka.address}/{topic}")
    partition = StreamPartition(log.id, topic, 0)
    reader = log.reader(topic, [0])
    (end,) = reader.end_offsets().values()
    reader.close()
    set_aside(log, partition, 8)
    (stream,) = trained_by(state_at(partition, end), dead_letters={"": [f"kafka://{kafka.address}/{topic}"]})["streams"]

    assert (stream["offsets"], end) == (9, 9)  # six records and three ends of transactions
    assert [letter["offset"] for letter in stream["set_aside"]] == [8]


def test_a_broker_that_is_away_is_no_empty_topic():
    with pytest.raises(Unreachable):
        SetAside.opened("kafka://127.0.0.1:9/rows?connect_seconds=0.5")
