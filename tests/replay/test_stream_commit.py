"""Rows and ledger agree after power cuts and damage: what a reader gets was appended, and nothing is left out."""

from __future__ import annotations

import contextlib
import functools
import mmap
import random
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_ring import PARTITIONS, SCHEMA, assert_whole, feed, in_order, learnt, make_ring, position, stretch

from fedmb.errors import CorruptRing, FedmbError, NotEnoughData
from fedmb.ledger import Ledger
from fedmb.replay import stream_commit
from fedmb.replay.ring_cursor import cursor_path
from fedmb.replay.ring_layout import PAGE, PREFIX
from fedmb.replay.ring_source import RingSource
from fedmb.replay.stream_commit import slot_bytes
from fedmb.replay.stream_ring_file import DURABLE, stream_layout

ROWS = 2000  # 27 pages of rows and marks, so that a power cut can lose some of an append
LAYOUT = stream_layout(SCHEMA, ROWS, list(map(str, PARTITIONS)))


def read(path) -> RingSource:
    return RingSource(path, SCHEMA, linger_seconds=0, patience_seconds=0)


@pytest.fixture
def reboot(tmp_path, monkeypatch):
    """Starts the kernel anew, as far as a ring can tell."""

    def start() -> None:
        (tmp_path / "boot_id").write_text(f"{uuid.uuid4()}\n")

    monkeypatch.setattr(stream_commit, "BOOT_ID", tmp_path / "boot_id")
    start()
    return start


class Disk(mmap.mmap):
    """A mapped file that knows what the disk has of it: what was flushed, and of other pages any that ever were."""

    def __new__(cls, descriptor, size, **options):
        disk = super().__new__(cls, descriptor, size, **options)
        disk.pages = {at: [disk[at : at + PAGE]] for at in range(0, size, PAGE)}
        return disk

    def flush(self, offset, size):
        self.look()
        super().flush(offset, size)
        for at in range(offset, offset + size, PAGE):
            self.pages[at] = [self[at : at + PAGE]]

    def look(self):
        """The kernel may write any page at any moment."""
        for at, contents in self.pages.items():
            if contents[-1] != (now := self[at : at + PAGE]):
                contents.append(now)

    def after_power_cut(self, chance):
        return b"".join(chance.choice(contents) for contents in self.pages.values())


def used_for_a_while(ring, source, learning, chance) -> Ledger:
    """The model's ledger after a random time in which it learnt, rows came, and both were made durable."""
    for _ in range(chance.randrange(1, 12)):
        step = chance.choice(["feed", "feed", "feed", "learn", "flush"])
        if step == "feed" and ring.room() >= 900:
            feed(ring, [(chance.randrange(3), chance.randrange(1, 300)) for _ in range(3)])
        elif step == "flush":
            ring.flush()
        elif step == "learn":
            with contextlib.suppress(NotEnoughData):
                learning = learnt(learning, source.take(chance.randrange(1, 900)))
            source.seek(position(learning))
        ring._file._map.look()
    return learning


def all_learnt(ring, source, learning) -> Ledger:
    """The model's ledger once it stands where the ring stands."""
    while any(learning.position(one) < ring.ledger.position(one) for one in PARTITIONS):
        learning = learnt(learning, source.take(777))
    return learning


@pytest.mark.parametrize("seed", range(25))
def test_after_a_power_cut_rows_and_ledger_agree(tmp_path, monkeypatch, reboot, seed):
    monkeypatch.setattr(mmap, "mmap", Disk)
    chance, path, learning, survived, forgotten = random.Random(seed), tmp_path / "ring", Ledger(), 0, 0
    for _ in range(5):
        ring, source = make_ring(path, ROWS), read(path)
        source.seek(position(learning))  # the checkpoint is the server's, and survives
        survived, forgotten = survived + source.statistics().unread, ring.statistics().forgotten
        learning = used_for_a_while(ring, source, learning, chance)
        content = ring._file._map.after_power_cut(chance)
        source.close()
        ring.close()
        path.write_bytes(content)
        reboot()

    ring, source = make_ring(path, ROWS), read(path)
    source.seek(position(learning))
    learning = all_learnt(ring, source, learning)
    source.seek(position(learning))
    feed(ring, [(0, 300), (1, 300), (2, 300)])
    all_learnt(ring, source, learning)
    print(f"seed={seed} survived={survived} forgotten={forgotten}")
    source.close()
    ring.close()


def test_what_was_flushed_is_there_after_a_power_cut_and_the_rest_is_counted(tmp_path, reboot, caplog):
    ring = make_ring(tmp_path / "ring", ROWS)
    numbers = feed(ring, [(0, 30), (1, 9)])
    ring.flush()
    flushed = ring.ledger
    feed(ring, [(2, 17)])
    ring.close()
    reboot()

    again, source = make_ring(tmp_path / "ring", ROWS), read(tmp_path / "ring")

    assert (again.ledger, again.statistics().forgotten) == (flushed, 17)
    assert source.take(100).columns["y"].tolist() == numbers
    assert "ring restored to its last flush" in caplog.text
    assert "rows=39 forgotten=17" in caplog.text
    source.close()
    again.close()


def test_a_reader_trusts_nothing_after_a_power_cut_until_the_writer_has_looked(tmp_path, reboot):
    ring = make_ring(tmp_path / "ring", ROWS)
    feed(ring, [(0, 30)])
    ring.close()
    reboot()
    source = read(tmp_path / "ring")

    with pytest.raises(NotEnoughData):
        source.take(1)
    ring = make_ring(tmp_path / "ring", ROWS)
    feed(ring, [(1, 4)])
    assert len(source.take(100)) == 4  # nothing had been flushed
    source.close()
    ring.close()


def test_without_a_boot_id_a_ring_still_works(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_commit, "BOOT_ID", tmp_path / "none")

    ring, source = make_ring(tmp_path / "ring"), read(tmp_path / "ring")
    numbers = feed(ring, [(0, 7)])

    assert source.take(9).columns["y"].tolist() == numbers
    source.close()
    ring.close()


@functools.cache
def used() -> tuple[bytes, bytes, Ledger]:
    """A ring that went round more than once, its cursor, and the ledger of a model that is not far behind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ring")
        ring, source, learning = make_ring(path, ROWS), read(path), Ledger()
        for _ in range(6):
            feed(ring, [(0, 300), (1, 250), (2, 170)])
            learning = learnt(learning, source.take(700))
            source.seek(position(learning))
        source.close()
        ring.flush()
        ring.close()
        return path.read_bytes(), cursor_path(path).read_bytes(), learning


AREAS = {
    "prefix": (0, PREFIX.size),
    "description": (PREFIX.size, LAYOUT.commits),
    "slots": (LAYOUT.commits, LAYOUT.data),
    "marks": (LAYOUT.hidden["mark"][0], LAYOUT.size),
    "anywhere": (0, LAYOUT.size),
}


@settings(max_examples=200)
@given(st.data())
def test_damage_never_gives_rows_that_were_not_appended(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content, cursor, learning = bytearray(used()[0]), bytearray(used()[1]), used()[2]
    for _ in range(data.draw(st.integers(1, 4), label="faults")):
        start, stop = data.draw(st.sampled_from(list(AREAS.values())), label="area")
        at = data.draw(st.integers(start, stop - 1), label="at")
        if at < len(content):
            content[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        if data.draw(st.integers(0, 9), label="cut") == 0:
            del content[at:]
        place = data.draw(st.integers(0, len(cursor) - 1), label="cursor")
        cursor[place] ^= data.draw(st.sampled_from([0, 1, 0x80]), label="cursor bit")
    (folder / "ring").write_bytes(content)
    cursor_path(folder / "ring").write_bytes(cursor)

    try:
        ring = make_ring(folder / "ring", ROWS)
    except FedmbError:
        return
    source, reached = read(folder / "ring"), learning
    try:
        source.seek(position(learning))
        for _ in range(5):
            batch = source.take(500)
            assert_whole(batch.columns)
            reached = reached.advanced(batch.span)
            for index, partition in enumerate(PARTITIONS):
                expected = stretch(index, *batch.span[partition]) if partition in batch.span else []
                assert in_order(batch.columns["y"].tolist(), index) == expected
    except FedmbError:
        pass
    for one in PARTITIONS:  # a ring that lost its last commit stands behind its model for a while
        assert reached.position(one) <= max(ring.ledger.position(one), learning.position(one))
    source.close()
    ring.close()


@pytest.mark.parametrize("slots", [range(1), range(1, 2), range(2), range(2, 3), range(3, 4), range(2, 4), range(3)])
def test_any_slot_may_be_lost_and_what_is_left_is_right(tmp_path, slots):
    content, learning = bytearray(used()[0]), used()[2]
    size = slot_bytes(len(PARTITIONS))
    for slot in slots:
        content[LAYOUT.commits + slot * size] ^= 1
    (tmp_path / "ring").write_bytes(content)

    ring, source = make_ring(tmp_path / "ring", ROWS), read(tmp_path / "ring")
    source.seek(position(learning))
    feed(ring, [(0, 310), (1, 310), (2, 310)])  # again what a lost commit had said, and more
    assert all_learnt(ring, source, learning) == ring.ledger
    source.close()
    ring.close()


def test_a_ring_without_a_commit_is_corrupt(tmp_path):
    content, size = bytearray(used()[0]), slot_bytes(len(PARTITIONS))
    for slot in range(2 * DURABLE):
        content[LAYOUT.commits + slot * size + 9] ^= 1
    (tmp_path / "ring").write_bytes(content)

    with pytest.raises(CorruptRing, match="commit slots fail their checksums; move it away"):
        make_ring(tmp_path / "ring", ROWS)
    with pytest.raises(CorruptRing, match="restart its writer"):
        read(tmp_path / "ring").take(1)
