import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, DecodeError, SettingsError
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.dead_letter_replay import DeadLetterReplay, ReplayReport, replay
from fedmb.ingest.log import Record, records_between
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.stream_url import StreamUrl, open_log
from fedmb.ledger import StreamPartition

SCHEMA = {"n": Column("int64")}
CODEC = PackedCodec(SCHEMA)
ERROR = DecodeError("not yet")
PROCESS = """
import sys, threading
from pathlib import Path
from fedmb.batch.minibatch import Column
from fedmb.ingest import dead_letter_replay as module
module.FLUSH_RECORDS = 20
class Telling:
    def is_set(self):
        print("record", flush=True)
        return False
settings = module.DeadLetterReplay(url=sys.argv[1], to=sys.argv[2], ledger=Path(sys.argv[3]))
module.replay(settings, {"n": Column("int64")}, Telling())
"""


@pytest.fixture(params=["file", "kafka-python", "confluent"])
def url(request, tmp_path, topic):
    if request.param == "file":
        return f"file:{tmp_path}/log?topic={topic}"
    kafka = request.getfixturevalue("kafka")
    return f"kafka://{kafka.address}/{topic}?driver={request.param}"


def named(url: str, topic: str) -> str:
    return url.replace(StreamUrl.parse(url).topic, topic)


def set_aside(url: str, offsets, *, bad=(), partition: int = 0) -> None:
    """Letters of one row each, whose number is their offset; `bad` ones hold nothing that a codec reads."""
    log = open_log(url)
    with closing(LogDeadLetters(log)) as sink:
        for offset in offsets:
            value = b"nonsense" if offset in bad else CODEC.encode({"n": np.array([offset])})
            name = StreamPartition("k", StreamUrl.parse(url).topic, partition)
            sink.set_aside(Record(name, offset, 0, value, {**codec_headers(CODEC), "own": b"1"}), ERROR)


def records(url: str) -> list[Record]:
    stream = StreamUrl.parse(url)
    log = open_log(stream)
    with closing(log.reader(stream.topic, [0])) as reader:
        (end,) = reader.end_offsets().values()
        return list(records_between(reader, 0, end))


def numbers(url: str) -> list[int]:
    return [int(CODEC.decode(record.value)["n"][0]) for record in records(url)]


def replayed(tmp_path, url: str, **options) -> ReplayReport:
    settings = DeadLetterReplay(url=url, ledger=tmp_path / "ledger", **options)
    return replay(settings, SCHEMA, threading.Event())


def test_letters_that_can_be_read_now_go_back_with_their_own_headers(tmp_path, url):
    set_aside(url, [3, 5, 8, 9], bad={5})
    report = replayed(tmp_path, url)

    assert (report.letters, report.replayed, report.repeated, dict(report.undecodable)) == (4, 3, 0, {"DecodeError": 1})
    assert numbers(url) == [3, 8, 9]
    source = f"k/{StreamUrl.parse(url).topic}[0]@3".encode()
    assert records(url)[0].headers == {**codec_headers(CODEC), "own": b"1", "fmb-replayed-from": source}


def test_a_letter_goes_back_once_with_or_without_the_ledger_file(tmp_path, url):
    set_aside(url, [3, 5])
    replayed(tmp_path, url)
    set_aside(url, [3, 5, 8])
    counts = [replayed(tmp_path, url).replayed]
    (tmp_path / "ledger").unlink()
    counts.append(replayed(tmp_path, url).replayed)

    assert counts == [1, 0]
    assert numbers(url) == [3, 5, 8]


def test_what_stayed_goes_back_once_its_codec_is_there(tmp_path, topic):
    url = f"file:{tmp_path}/log?topic={topic}"
    set_aside(url, [3, 5])
    first = replayed(tmp_path, f"{url}&codecs=json")
    second = replayed(tmp_path, url)

    assert (first.replayed, second.replayed) == (0, 2)
    assert "must name one of json" in first.last_errors["DecodeError"]


def test_a_dry_run_counts_and_leaves_all_as_it_is(tmp_path, url):
    set_aside(url, [3, 5, 8], bad={5})
    other = named(url, "elsewhere" + StreamUrl.parse(url).topic)
    open_log(other).writer(StreamUrl.parse(other).topic, 0).close()
    report = replayed(tmp_path, url, to=other, dry_run=True)

    assert (report.replayed, report.letters) == (2, 3)
    assert numbers(other) == []
    assert not (tmp_path / "ledger").exists()


def test_start_and_limit_choose_letters(tmp_path, topic):
    url = f"file:{tmp_path}/log?topic={topic}"
    set_aside(url, range(10))
    replayed(tmp_path, url, start=2, limit=3)

    assert numbers(url) == [2, 3, 4]


def test_letters_go_to_another_topic_and_log(tmp_path, topic):
    url, other = f"file:{tmp_path}/letters?topic={topic}", f"file:{tmp_path}/log?topic=mended"
    set_aside(url, range(4))
    replayed(tmp_path, url, to=other)

    assert numbers(other) == [0, 1, 2, 3]
    assert open_log(url).partitions(topic) == ()


def test_a_second_letter_of_a_record_is_passed(tmp_path, topic):
    url = f"file:{tmp_path}/log?topic={topic}"
    set_aside(url, [3])
    letter = records(named(url, f"{topic}.dlq"))[0]
    with closing(open_log(url).writer(f"{topic}.dlq", 0)) as writer:
        writer.append(letter.value, letter.headers)

    assert (report := replayed(tmp_path, url)).replayed == report.repeated == 1


def test_two_replays_do_not_run_at_once(tmp_path, topic):
    url = f"file:{tmp_path}/log?topic={topic}"
    set_aside(url, [3])
    with closing(open_log(url).writer(topic, 0)), pytest.raises(AlreadyOwned):
        replayed(tmp_path, url)


def test_letters_must_lie_in_a_log_that_exists(tmp_path):
    with pytest.raises(SettingsError, match="must exist"):
        replayed(tmp_path, f"file:{tmp_path}/none?topic=t")


@pytest.mark.parametrize("scheme", ["file", "kafka"])
def test_killed_replays_leave_each_letter_once(request, tmp_path, topic, scheme):
    url = f"file:{tmp_path}/log?topic={topic}"
    if scheme == "kafka":
        url = f"kafka://{request.getfixturevalue('kafka').address}/{topic}"
    other = named(url, f"{topic}-mended")
    set_aside(url, range(300), bad=range(0, 300, 7))
    kills = 0
    for goal in (30, 80, 95, 10**9):
        command = [sys.executable, "-c", PROCESS, url, other, str(tmp_path / "ledger")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        for seen, _ in enumerate(process.stdout):
            if seen == goal:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        process.wait()
        process.stdout.close()
        if scheme == "kafka" and goal < 10**9:
            settled(other)

    assert kills == 3
    assert numbers(other) == [number for number in range(300) if number % 7]


def settled(url: str) -> None:
    """Wait until a killed process's last requests have been worked off: what lies there is the same for a while."""
    stream = StreamUrl.parse(url)
    with closing(open_log(stream).reader(stream.topic, [0])) as reader:
        end, since = -1, time.monotonic()
        while time.monotonic() - since < 0.5:
            if (now := next(iter(reader.end_offsets().values()))) != end:
                end, since = now, time.monotonic()
