import itertools
import math
import os
import random
import select
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from fedmb.errors import AlreadyOwned, CorruptLog, SettingsError
from fedmb.ingest import file_writer
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.segment import segment_bases, segment_path

ENDLESS = """
import itertools, sys
from fedmb.ingest.file_log import FileLog, FsyncPolicy
writer = FileLog.open(sys.argv[1], fsync=FsyncPolicy.never(), segment_bytes=100_000, create=True).writer("t", 0)
print(writer.end_offset, flush=True)
for _ in itertools.count():
    first = writer.end_offset
    writer.append_many([b"%d " % offset * (offset % 50) for offset in range(first, first + 3)])
"""


@pytest.fixture
def log(tmp_path):
    return FileLog.open(tmp_path, id="here", fsync=FsyncPolicy.never(), create=True)


def first_segment(log):
    return segment_path(log.path / "t" / "0", 0)


def read_back(log) -> list[bytes]:
    with closing(log.reader("t", [0])) as reader:
        (end,) = reader.end_offsets().values()
        values = []
        while len(values) < end:
            values += [bytes(record.value) for record in reader.poll(20.0)]
        return values


def test_a_tail_torn_at_any_byte_is_cut_off_counted_and_logged(log, caplog):
    with closing(log.writer("t", 0)) as writer:
        writer.append_many([b"one", b"two"])
        whole = first_segment(log).stat().st_size
        writer.append(b"three", {"k": b"v"})
    data = first_segment(log).read_bytes()

    for length in range(whole, len(data)):
        caplog.clear()
        first_segment(log).write_bytes(data[:length])
        with closing(log.writer("t", 0)) as writer:
            assert writer.truncated_bytes == length - whole
            assert writer.append(b"again") == 2
        assert read_back(log) == [b"one", b"two", b"again"]
        assert ("torn tail truncated" in caplog.text) == (length > whole)


def test_a_tail_of_zeros_or_rubbish_is_cut_off(log):
    with closing(log.writer("t", 0)) as writer:
        writer.append(b"one")
    good = first_segment(log).read_bytes()

    for rubbish in (bytes(5000), random.Random(3).randbytes(5000), good[:-1] + b"!"):
        first_segment(log).write_bytes(good + rubbish)
        with closing(log.writer("t", 0)) as writer:
            assert writer.truncated_bytes == len(rubbish)
            assert writer.end_offset == 1


def test_damage_in_front_of_good_records_is_never_cut_off(log):
    with closing(log.writer("t", 0)) as writer:
        ends = [writer.append(b"x" * 40) and first_segment(log).stat().st_size for _ in range(6)]
    good = first_segment(log).read_bytes()
    frame_bytes = len(good) // 6

    for bit in random.Random(7).sample(range(8 * frame_bytes * 5), 300):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        first_segment(log).write_bytes(damaged)
        with pytest.raises(CorruptLog, match="restore") as caught:
            log.writer("t", 0)
        assert (caught.value.topic, caught.value.partition) == ("t", 0)
        assert caught.value.offset == bit // 8 // frame_bytes
        assert first_segment(log).read_bytes() == damaged
    assert ends[-1] == len(good)


def test_a_frame_inside_a_torn_value_does_not_count_as_a_later_record(log):
    with closing(log.writer("t", 0)) as writer:
        writer.append_many([b"0"] * 9)
    inner = first_segment(log).read_bytes()  # whole frames of the offsets 0 to 8
    with closing(log.writer("u", 0)) as writer:
        writer.append(b"first")
        writer.append(inner + b"tail")
    path = segment_path(log.path / "u" / "0", 0)
    path.write_bytes(path.read_bytes()[:-1])

    with closing(log.writer("u", 0)) as writer:
        assert writer.end_offset == 1


def test_a_frame_inside_a_damaged_last_value_does_not_count_as_a_later_record(log):
    with closing(log.writer("t", 0)) as writer:
        writer.append_many([b"0"] * 9)
    inner = first_segment(log).read_bytes()
    with closing(log.writer("u", 0)) as writer:
        writer.append_many([b"first", inner + b"tail"])
    path = segment_path(log.path / "u" / "0", 0)
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # as long as it should be, as after a loss of power

    with closing(log.writer("u", 0)) as writer:
        assert writer.end_offset == 1


def test_segments_roll_by_size_and_each_is_named_by_its_first_offset(tmp_path):
    log = FileLog.open(tmp_path, fsync=FsyncPolicy.every(0.5), segment_bytes=1000, create=True)
    with closing(log.writer("t", 0)) as writer:
        writer.append_many([b"x" * 264] * 7)
        writer.append(b"y" * 5000)
        writer.append(b"z")
    directory = tmp_path / "t" / "0"

    assert segment_bases(directory) == [0, 3, 6, 7, 8]
    assert [segment_path(directory, base).stat().st_size for base in (0, 3, 6, 7)] == [900, 900, 300, 5036]
    assert [len(value) for value in read_back(log)] == [264] * 7 + [5000, 1]
    with closing(log.writer("t", 0)) as writer:
        assert writer.end_offset == 9


def test_the_owner_is_named_and_not_one_before_it(log):
    log.writer("t", 0).close()
    (log.path / "t" / "0" / "owner.lock").write_text("12345678901234567890\n")

    with closing(log.writer("t", 0)), pytest.raises(AlreadyOwned, match=rf"process {os.getpid()} writes here/t\[0\]"):
        log.writer("t", 0)


@pytest.mark.parametrize("written", [0, 1, 36, 50, 120])
def test_after_a_failed_write_whole_records_stay_and_the_rest_goes(log, monkeypatch, written):
    real, calls = os.pwrite, itertools.count()

    def failing(fd: int, data: bytes, position: int) -> int:
        if next(calls) == 0:
            return real(fd, data[:written], position) if written else 0
        raise OSError(28, "No space left on device")

    with closing(log.writer("t", 0)) as writer:
        writer.append(b"before")
        with monkeypatch.context() as patch:
            patch.setattr(file_writer.os, "pwrite", failing)
            with pytest.raises(OSError, match=r"space.*00000000000000000000\.log"):
                writer.append_many([b"first", b"second", b"third"])
        kept = written // 41
        assert writer.end_offset == 1 + kept
        assert writer.append(b"after") == 1 + kept

    assert read_back(log) == [b"before", *[b"first", b"second"][:kept], b"after"]


def forced(monkeypatch, policy, tmp_path, appends):
    """How many times the file was forced by each of `appends` appends, one a second, and by a flush."""
    real, calls, clock = os.fsync, [], itertools.count()
    monkeypatch.setattr(file_writer.os, "fsync", lambda fd: (calls.append(fd), real(fd)))
    monkeypatch.setattr(file_writer.time, "monotonic", lambda: float(next(clock)))
    with closing(FileLog.open(tmp_path, fsync=policy, create=True).writer("t", 0)) as writer:
        calls.clear()
        counts = []
        for _ in range(appends):
            writer.append(b"x")
            counts.append(len(calls))
        writer.flush()
        return [*counts, len(calls)]


def test_every_append_is_forced_under_always(monkeypatch, tmp_path):
    assert forced(monkeypatch, FsyncPolicy.always(), tmp_path, 3) == [1, 2, 3, 4]


def test_only_a_flush_is_forced_under_never(monkeypatch, tmp_path):
    assert forced(monkeypatch, FsyncPolicy.never(), tmp_path, 3) == [0, 0, 0, 1]


def test_appends_are_forced_at_most_once_an_interval(monkeypatch, tmp_path):
    counts = forced(monkeypatch, FsyncPolicy.every(2.5), tmp_path, 9)

    assert 1 < counts[-2] < 5
    assert counts[-1] == counts[-2] + 1


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_an_interval_is_not_negative(seconds):
    with pytest.raises(SettingsError, match="always"):
        FsyncPolicy.every(seconds)


def test_a_writer_killed_again_and_again_leaves_one_gapless_log(tmp_path):
    log = FileLog.open(tmp_path, fsync=FsyncPolicy.never(), create=True)
    starts = []
    with closing(log.reader("t", [0])) as reader:
        seen = 0
        for _ in range(4):
            process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE)
            assert select.select([process.stdout], [], [], 20.0)[0]
            starts.append(int(process.stdout.readline()))
            goal = seen + 2000
            while seen < goal:
                for record in reader.poll(20.0):
                    assert record.offset == seen
                    assert bytes(record.value) == b"%d " % seen * (seen % 50)
                    seen += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
    with closing(log.writer("t", 0)) as writer:
        end = writer.end_offset

    assert starts == sorted(starts)
    assert starts[0] == 0
    assert end >= seen
    assert len(read_back(log)) == end
