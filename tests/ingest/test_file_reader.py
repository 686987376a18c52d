import os
import random
import subprocess
import sys
from contextlib import closing

import pytest

from fedmb.errors import CorruptLog
from fedmb.ingest import file_reader, segment
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.segment import segment_path

WRITER = """
import sys
from fedmb.ingest.file_log import FileLog, FsyncPolicy
writer = FileLog.open(sys.argv[1], fsync=FsyncPolicy.never(), segment_bytes=5000, create=False).writer("t", 0)
for line in sys.stdin:
    writer.append(line.strip().encode() * 20)
"""


@pytest.fixture
def log(tmp_path):
    return FileLog.open(tmp_path, id="here", fsync=FsyncPolicy.never(), segment_bytes=1000, create=True)


def segments(log):
    return sorted((log.path / "t" / "0").glob("*.log"))


def fill(log, count: int, size: int = 64) -> None:
    with closing(log.writer("t", 0)) as writer:
        writer.append_many([bytes([index % 256]) * size for index in range(writer.end_offset, count)])


def polled(reader, offsets: list[int] | None = None) -> list[int]:
    """Offsets of all that is there, added to `offsets` as they come."""
    offsets = [] if offsets is None else offsets
    while records := reader.poll(0.0, 3):
        offsets += [record.offset for record in records]
    return offsets


def test_a_reader_follows_a_live_writer_in_another_process(log):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(log.path)], stdin=subprocess.PIPE, text=True)
    with closing(log.reader("t", [0])) as reader:
        for number in range(200):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            (record,) = reader.poll(20.0)

            assert (record.offset, bytes(record.value)) == (number, b"%d" % number * 20)
    process.stdin.close()
    assert process.wait() == 0
    assert len(segments(log)) > 2


def test_an_unfinished_tail_is_waited_for_at_every_byte(log):
    fill(log, 3)
    path = segment_path(log.path / "t" / "0", 0)
    data = path.read_bytes()
    whole = len(data) * 2 // 3
    for step in (1, 7):
        path.write_bytes(data[:whole])
        with closing(log.reader("t", [0])) as reader:
            assert polled(reader) == [0, 1]
            for length in range(whole, len(data), step):
                path.write_bytes(data[:length])
                assert reader.poll(0.0) == []
                assert reader.end_offsets()[reader.partitions[0]] == 2
            path.write_bytes(data)

            assert polled(reader) == [2]


def test_a_tail_that_a_restarted_writer_replaced_is_read_anew(log):
    fill(log, 2)
    path = segment_path(log.path / "t" / "0", 0)
    whole = path.stat().st_size
    fill(log, 3)
    data = path.read_bytes()
    for length in range(whole, len(data)):
        path.write_bytes(data[:length])
        with closing(log.reader("t", [0])) as reader:
            assert polled(reader) == [0, 1]
            with closing(log.writer("t", 0)) as writer:
                writer.append(b"another one, of another length")

            assert [bytes(record.value) for record in reader.poll(0.0)] == [b"another one, of another length"]


def test_a_bit_flipped_anywhere_but_in_the_tail_is_found_and_located(log):
    fill(log, 25)
    frame_bytes = 100
    good = {path: path.read_bytes() for path in segments(log)}
    last = segments(log)[-1]
    draw = random.Random(5)
    for _ in range(150):
        path = draw.choice([path for path in good if path != last])
        bit = draw.randrange(8 * len(good[path]))
        damaged = bytearray(good[path])
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with closing(log.reader("t", [0])) as reader:
            bad = int(path.stem) + bit // 8 // frame_bytes
            offsets = []
            with pytest.raises(CorruptLog, match="checksum") as caught:
                polled(reader, offsets)

            assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, bad)
            assert offsets == list(range(bad))
        path.write_bytes(good[path])


def test_a_bit_flipped_in_the_last_segment_is_found_when_records_follow(log):
    fill(log, 5)
    (path,) = segments(log)
    good = path.read_bytes()
    for bit in range(0, 8 * 400, 11):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with closing(log.reader("t", [0])) as reader, pytest.raises(CorruptLog) as caught:
            polled(reader)
        assert caught.value.offset == bit // 800


def test_damage_stays_an_error_until_the_reader_seeks_past_it(log):
    fill(log, 5)
    (path,) = segments(log)
    damaged = bytearray(path.read_bytes())
    damaged[250] ^= 1
    path.write_bytes(damaged)
    with closing(log.reader("t", [0])) as reader:
        assert [record.offset for record in reader.poll(0.0)] == [0, 1]
        for _ in range(3):
            with pytest.raises(CorruptLog):
                reader.poll(0.0)
        reader.seek(reader.partitions[0], 3)

        assert polled(reader) == [3, 4]


def test_damage_of_one_partition_does_not_swallow_records_of_another(log):
    fill(log, 5)
    with closing(log.writer("t", 1)) as writer:
        writer.append_many([b"x"] * 5)
    (path,) = segments(log)
    damaged = bytearray(path.read_bytes())
    damaged[50] ^= 1
    path.write_bytes(damaged)
    with closing(log.reader("t", [0, 1])) as reader:
        offsets, failures = [], 0
        while len(offsets) < 5 or failures < 3:
            try:
                offsets += [record.offset for record in reader.poll(0.0, 2)]
            except CorruptLog:
                failures += 1

        assert offsets == list(range(5))


@pytest.mark.parametrize("cut", [1, 50, 100, 101])
def test_a_sealed_segment_that_ends_too_early_is_damage(log, cut):
    fill(log, 25)
    path = segments(log)[0]
    os.truncate(path, path.stat().st_size - cut)
    with (
        closing(log.reader("t", [0])) as reader,
        pytest.raises(CorruptLog, match="before the next one begins") as caught,
    ):
        polled(reader)

    assert caught.value.offset == 10 - -(-cut // 100)


def test_a_missing_segment_is_damage(log):
    fill(log, 35)
    segments(log)[1].unlink()
    with closing(log.reader("t", [0])) as reader, pytest.raises(CorruptLog) as caught:
        polled(reader)

    assert caught.value.offset == 10


def test_a_missing_first_segment_is_damage(log):
    fill(log, 25)
    segments(log)[0].unlink()
    with closing(log.reader("t", [0])) as reader:
        with pytest.raises(CorruptLog):
            reader.poll(0.0)
        reader.seek(reader.partitions[0], 10)

        assert polled(reader) == list(range(10, 25))


def test_a_record_out_of_its_place_is_damage(log):
    fill(log, 5)
    (path,) = segments(log)
    data = path.read_bytes()
    path.write_bytes(data[:200] + data[100:200] + data[300:])
    with closing(log.reader("t", [0])) as reader:
        assert [record.offset for record in reader.poll(0.0)] == [0, 1]
        with pytest.raises(CorruptLog, match="offset is 1"):
            reader.poll(0.0)


def test_suspicion_from_bytes_that_were_just_replaced_does_not_condemn(log, monkeypatch):
    fill(log, 2)
    (path,) = segments(log)
    good = path.read_bytes()
    path.write_bytes(good[:150] + bytes(50))  # what a reader may see of a tail that is being replaced

    def replaced(fd, place, error):
        path.write_bytes(good)
        return True

    monkeypatch.setattr(file_reader, "is_damage", replaced)
    with closing(log.reader("t", [0])) as reader:
        assert polled(reader) == [0, 1]


@pytest.mark.parametrize("read_bytes", [64, 100, 150, 1000])
def test_records_across_the_end_of_a_read_are_whole(log, monkeypatch, read_bytes):
    monkeypatch.setattr(segment, "READ_BYTES", read_bytes)
    fill(log, 30, size=777)
    with closing(log.reader("t", [0])) as reader:
        records = [record for _ in range(30) for record in reader.poll(0.0, 1)]

        assert [bytes(record.value) for record in records] == [bytes([index]) * 777 for index in range(30)]


def test_values_stay_valid_after_later_polls(log):
    fill(log, 30)
    with closing(log.reader("t", [0])) as reader:
        kept = [record for _ in range(30) for record in reader.poll(0.0, 1)]
    assert [bytes(record.value) for record in kept] == [bytes([index]) * 64 for index in range(30)]
    assert all(record.value.readonly for record in kept)


def test_a_poll_of_large_records_ends_at_its_bytes_and_hides_no_partition(log, monkeypatch):
    monkeypatch.setattr(file_reader, "POLL_BYTES", 4000)
    for partition in (0, 1):
        with closing(log.writer("t", partition)) as writer:
            writer.append_many([bytes(700)] * 10)
    with closing(log.reader("t", [0, 1])) as reader:
        first = reader.poll(0.0)
        rest = [record for _ in range(4) for record in reader.poll(0.0)]

    assert [(record.partition.partition, record.offset) for record in first] == [
        (1, 0),
        (1, 1),
        (1, 2),
        (0, 0),
        (0, 1),
        (0, 2),
    ]
    assert sorted(record.offset for record in first + rest) == sorted([*range(10), *range(10)])


def test_a_record_larger_than_a_poll_comes_by_itself(log, monkeypatch):
    monkeypatch.setattr(file_reader, "POLL_BYTES", 10)
    fill(log, 3)
    with closing(log.reader("t", [0])) as reader:
        assert [len(reader.poll(0.0)) for _ in range(4)] == [1, 1, 1, 0]
