"""A stream ring's file has one layout and its place on the disk, and what is not such a file is left alone."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from numbered_ring import PARTITIONS, SCHEMA, feed, make_ring

from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptRing, SettingsError, VersionMismatch
from fedmb.replay.ring_layout import PAGE, PREFIX
from fedmb.replay.ring_source import RingSource
from fedmb.replay.stream_commit import slot_bytes
from fedmb.replay.stream_ring import StreamRing
from fedmb.replay.stream_ring_file import NUM_SLOTS, stream_layout

LAYOUT = stream_layout(SCHEMA, 40, list(map(str, PARTITIONS)))
SLOT = slot_bytes(len(PARTITIONS))


@pytest.fixture
def path(tmp_path):
    """A closed ring that took 20 rows."""
    ring, source = make_ring(tmp_path / "ring"), RingSource(tmp_path / "ring", SCHEMA)
    feed(ring, [(0, 10), (1, 10)])
    source.close()
    ring.close()
    return tmp_path / "ring"


def damage(path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_the_disk_is_reserved_when_the_file_is_made(tmp_path):
    StreamRing(tmp_path / "ring", {"x": Column("uint8", (1024,))}, PARTITIONS, max_rows=2000).close()

    assert (tmp_path / "ring").stat().st_blocks * 512 >= 2000 * 1024


def test_only_its_owner_can_read_the_file_and_the_cursor(path):
    assert path.stat().st_mode & 0o077 == 0
    assert path.with_name("ring.cursor").stat().st_mode & 0o077 == 0


def test_commits_lie_on_pages_of_their_own_whatever_the_partitions():
    for count in (1, 3, 120, 700):
        layout = stream_layout(SCHEMA, 40, [f"log/topic[{index}]" for index in range(count)])
        assert slot_bytes(count) % PAGE == layout.commits % PAGE == layout.data % PAGE == 0
        assert slot_bytes(count) >= 32 * count
        assert layout.data == layout.commits + NUM_SLOTS * slot_bytes(count)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"max_rows": 41}, r"capacity 40 \(wanted 41\)"),
        ({"schema": {**SCHEMA, "y": Column("int32")}}, r"columns .*int64.*wanted.*int32"),
        ({"partitions": PARTITIONS[:2]}, r"partitions .*\[2\].*wanted"),
    ],
)
def test_other_settings_than_the_files_are_named(path, other, message):
    with pytest.raises(SettingsError, match=message):
        StreamRing(path, **{"schema": SCHEMA, "partitions": PARTITIONS, "max_rows": 40, **other})


def test_a_newer_format_is_a_version_mismatch(path):
    damage(path, 8, b"\2")

    for use in (lambda: make_ring(path), lambda: RingSource(path, SCHEMA)):
        with pytest.raises(VersionMismatch, match="must have format 1"):
            use()


@pytest.mark.parametrize("content", [b"x", b"hello, world" * 1000, b"\0" * 1_000_000, b"FEDMBRNG" * 100])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "notes").write_bytes(content)

    with pytest.raises(CorruptRing, match="must begin as a ring does"):
        make_ring(tmp_path / "notes")
    assert (tmp_path / "notes").read_bytes() == content


def test_a_making_that_was_cut_off_is_begun_again_and_waited_for(tmp_path):
    made = tmp_path / "made"
    make_ring(made).close()
    first_use = LAYOUT.commits + SLOT  # the second slot, which the first writer wrote when it opened the ring
    whole = bytearray(made.read_bytes())
    whole[: PREFIX.size], whole[first_use : first_use + SLOT] = bytes(PREFIX.size), bytes(SLOT)
    for size in (0, 5, PREFIX.size + 9, LAYOUT.commits + 7, LAYOUT.commits + SLOT, LAYOUT.size - 1, LAYOUT.size):
        path = tmp_path / f"ring{size}"
        path.write_bytes(whole[:size])
        source = RingSource(path, SCHEMA, patience_seconds=0)

        ring = make_ring(path)
        feed(ring, [(0, 5)])

        assert len(source.take(5)) == 5
        source.close()
        ring.close()


def test_a_used_ring_that_lost_its_first_page_is_not_begun_again(path):
    damage(path, 0, bytes(LAYOUT.commits))

    with pytest.raises(CorruptRing, match="must begin as a ring does"):
        make_ring(path)


def test_a_full_disk_is_an_error_at_construction(tmp_path):
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, {resource.RLIM_INFINITY}))\n"
        "from fedmb.batch.minibatch import Column\n"
        "from fedmb.errors import SettingsError\n"
        "from fedmb.ledger import StreamPartition\n"
        "from fedmb.replay.stream_ring import StreamRing\n"
        "try:\n"
        "    StreamRing(sys.argv[1], {'x': Column('uint8')}, [StreamPartition('l', 't', 0)], max_bytes=1 << 22)\n"
        "except SettingsError as error:\n"
        "    print(error)\n"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "ring"], capture_output=True, text=True, check=True, timeout=60
    )

    assert "must fit on its disk" in finished.stdout
    assert "make it smaller or free space" in finished.stdout
    assert (tmp_path / "ring").stat().st_size == 0
