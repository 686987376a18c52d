"""A ring's file survives its process, has one owner, and is refused where it cannot be trusted."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, CorruptRing, SettingsError, VersionMismatch
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.replay.ring import Ring
from fedmb.replay.ring_commit import COUNTS, SLOT_BYTES
from fedmb.replay.ring_file import ring_head
from fedmb.replay.ring_layout import ALIGNMENT, PREFIX, Layout
from fedmb.replay.ring_rows import RingLayout

SCHEMA = {"x": Column("uint8", (3,)), "y": Column("int64")}
HEAD = ring_head(RingLayout(SCHEMA, 8))


def rows(first: int, stop: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, stop)
    return {"x": np.repeat(numbers[:, None] % 256, 3, 1).astype(np.uint8), "y": numbers}


@pytest.fixture
def path(tmp_path):
    """A closed ring of 8 rows that took 20 in appends of 5."""
    ring = Ring.mapped(tmp_path / "ring", SCHEMA, 8)
    for first in range(0, 20, 5):
        ring.append(rows(first, first + 5))
    ring.close()
    return tmp_path / "ring"


def damage(path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def newest_slot(path) -> int:
    """Byte at which the newer commit slot begins."""
    content = path.read_bytes()
    return max(
        (HEAD.commits, HEAD.commits + SLOT_BYTES),
        key=lambda at: COUNTS.unpack(content[at : at + COUNTS.size])[0],
    )


def test_a_ring_comes_back_as_it_was_closed(path):
    ring = Ring.mapped(path, dict(reversed(SCHEMA.items())), 8)

    assert ring.kept == range(12, 20)
    assert np.array_equal(ring.gather(np.arange(12, 20))["x"], rows(12, 20)["x"])
    assert ring.append(rows(20, 22)) == range(20, 22)
    ring.flush()
    ring.close()


def test_a_ledger_comes_back_with_its_rows(path):
    ledger = Ledger({StreamPartition("log", "meter", number): Position(number, 5) for number in range(300)})
    ring = Ring.mapped(path, SCHEMA, 8)
    ring.append(rows(20, 22), ledger=ledger)
    ring.append(rows(22, 25))
    ring.close()

    ring = Ring.mapped(path, SCHEMA, 8)
    assert (ring.ledger, ring.kept) == (ledger, range(17, 25))
    ring.close()


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_a_file_stays_as_it_is_laid_out(tmp_path, layout):
    Ring.mapped(tmp_path / "ring", SCHEMA, 8, layout=layout).close()

    ring = Ring.mapped(tmp_path / "ring", SCHEMA, 8)

    assert ring.statistics().layout == layout
    ring.close()
    other = {"rows": "columns", "columns": "rows"}[layout]
    with pytest.raises(SettingsError, match=rf"layout {layout} \(wanted {other}\)"):
        Ring.mapped(tmp_path / "ring", SCHEMA, 8, layout=other)


def test_commits_torn_anywhere_leave_rows_and_ledger_that_belong_together(tmp_path):
    def at(number):
        return Ledger({StreamPartition("log", "meter", 0): Position(number)})

    ring = Ring.mapped(tmp_path / "whole", SCHEMA, 8)
    for first in range(0, 6, 2):
        ring.append(rows(first, first + 2), ledger=at(first + 2))
    ring.close()
    chance, content, found = random.Random(0), (tmp_path / "whole").read_bytes(), []
    for _ in range(300):
        torn = bytearray(content)
        for _ in range(chance.choice([1, 1, 2])):
            start = HEAD.commits + chance.choice([0, SLOT_BYTES]) + chance.randrange(80)
            torn[start : start + chance.randrange(1, 40)] = chance.randbytes(1)
        torn = torn[: chance.choice([len(content), len(content), HEAD.commits + SLOT_BYTES])]
        (tmp_path / "torn").write_bytes(torn)
        try:
            ring = Ring.mapped(tmp_path / "torn", SCHEMA, 8)
        except CorruptRing:
            found.append(None)
            continue
        found.append(ring.appended)
        assert ring.ledger == at(ring.appended)
        assert ring.kept == range(ring.appended)
        ring.close()

    assert set(found) == {None, 4, 6}


def test_columns_lie_on_cache_lines_and_commits_in_sectors_of_their_own():
    layout = Layout({f"column{index}": Column("uint8", (index,)) for index in range(1, 200)}, 7)

    starts = [start for start, _ in layout.columns.values()]
    ends = [start + 7 * column.shape[0] for start, column in layout.columns.values()]
    assert all(start % ALIGNMENT == 0 for start in starts)
    assert all(end <= start for end, start in zip(ends, [*starts[1:], layout.size], strict=True))
    assert layout.commits >= PREFIX.size + len(layout.description)
    assert starts[0] >= layout.data


def test_the_disk_is_reserved_when_the_file_is_made(tmp_path):
    Ring.mapped(tmp_path / "ring", {"x": Column("uint8", (1024,))}, 2000).close()

    assert (tmp_path / "ring").stat().st_blocks * 512 >= 2000 * 1024


def test_only_its_owner_can_read_the_file(path):
    assert path.stat().st_mode & 0o077 == 0


def test_a_second_owner_is_refused_until_the_first_closes(path):
    first = Ring.mapped(path, SCHEMA, 8)

    with pytest.raises(AlreadyOwned, match="one owner"):
        Ring.mapped(path, SCHEMA, 8)
    first.close()
    Ring.mapped(path, SCHEMA, 8).close()


@pytest.mark.parametrize("damaged", [b"\0" * SLOT_BYTES, b"\xa5" * 7, b"\xff" * SLOT_BYTES])
def test_one_damaged_commit_slot_leaves_the_older_one(path, damaged):
    damage(path, newest_slot(path), damaged)

    ring = Ring.mapped(path, SCHEMA, 8)

    # The last append had first given up the rows that it was about to overwrite.
    assert (ring.appended, ring.kept) == (15, range(12, 15))
    assert np.array_equal(ring.gather(np.arange(12, 15))["y"], rows(12, 15)["y"])
    ring.close()


def test_two_damaged_commit_slots_are_a_corrupt_ring(path):
    damage(path, HEAD.commits, b"\xa5" * 2 * SLOT_BYTES)

    with pytest.raises(CorruptRing, match="both commit slots"):
        Ring.mapped(path, SCHEMA, 8)


@pytest.mark.parametrize(("at", "content"), [(PREFIX.size + 3, b"\xa5"), (12, bytes(512)), (16, b"\0")])
def test_a_damaged_description_is_a_corrupt_ring(path, at, content):
    damage(path, at, content)

    with pytest.raises(CorruptRing, match="fails its checksum"):
        Ring.mapped(path, SCHEMA, 8)


def test_a_file_cut_short_is_a_corrupt_ring(path):
    with path.open("r+b") as file:
        file.truncate(HEAD.size - 1)

    with pytest.raises(CorruptRing, match="cut off"):
        Ring.mapped(path, SCHEMA, 8)


@pytest.mark.parametrize("content", [b"x", b"hello, world" * 1000, b"\0" * 10_000, b"FEDMBRN"])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "notes").write_bytes(content)

    with pytest.raises(CorruptRing, match="must begin as a ring does"):
        Ring.mapped(tmp_path / "notes", SCHEMA, 8)
    assert (tmp_path / "notes").read_bytes() == content


def test_random_bytes_behind_the_magic_are_refused(tmp_path):
    generator = np.random.default_rng(0)
    for _ in range(50):
        (tmp_path / "ring").write_bytes(b"FEDMBRNG\2\0\0\0" + generator.bytes(200))
        with pytest.raises(CorruptRing):
            Ring.mapped(tmp_path / "ring", SCHEMA, 8)


def test_another_format_is_a_version_mismatch(path):
    damage(path, 8, b"\1")

    with pytest.raises(VersionMismatch, match="must have format 2"):
        Ring.mapped(path, SCHEMA, 8)


@pytest.mark.parametrize(
    ("schema", "capacity", "message"),
    [(SCHEMA, 9, r"capacity 8 \(wanted 9\)"), ({**SCHEMA, "y": Column("int32")}, 8, "columns .*int64.*wanted.*int32")],
)
def test_other_settings_than_the_files_are_named(path, schema, capacity, message):
    with pytest.raises(SettingsError, match=message):
        Ring.mapped(path, schema, capacity)


def test_a_file_whose_making_was_cut_off_is_made_again(path):
    for size in (0, HEAD.commits, HEAD.commits + SLOT_BYTES):
        Ring.mapped(path.with_name(f"ring{size}"), SCHEMA, 8).close()
        with path.with_name(f"ring{size}").open("r+b") as file:
            file.truncate(size)

        ring = Ring.mapped(path.with_name(f"ring{size}"), SCHEMA, 8)
        assert ring.append(rows(0, 20)) == range(20)
        ring.close()


def test_a_folder_is_no_place_for_a_ring(tmp_path):
    with pytest.raises(IsADirectoryError):
        Ring.mapped(tmp_path, SCHEMA, 8)


def test_a_full_disk_is_an_error_at_construction(tmp_path):
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, {resource.RLIM_INFINITY}))\n"
        "from fedmb.batch.minibatch import Column\n"
        "from fedmb.errors import SettingsError\n"
        "from fedmb.replay.ring import Ring\n"
        "try:\n"
        "    Ring.mapped(sys.argv[1], {'x': Column('uint8', (1024,))}, 2000)\n"
        "except SettingsError as error:\n"
        "    print(error)\n"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "ring"], capture_output=True, text=True, check=True, timeout=60
    )

    assert "must fit on its disk" in finished.stdout
    assert "make it smaller or free space" in finished.stdout
    assert (tmp_path / "ring").stat().st_size == 0


WRITER = """
import sys
import numpy as np
from fedmb.batch.minibatch import Column
from fedmb.replay.ring import Ring

generator = np.random.default_rng(int(sys.argv[2]))
ring = Ring.mapped(sys.argv[1], {"x": Column("int64", (16384,)), "y": Column("int64")}, 48)
content = np.empty((24, 16384), np.int64)
while True:
    first, count = ring.appended, int(generator.integers(1, 25))
    content[:count] = np.arange(first, first + count)[:, None]
    print(first, flush=True)
    ring.append({"x": content[:count], "y": np.arange(first, first + count)})
    print(ring.appended, flush=True)
    if generator.random() < 0.2:
        ring.rewind(max(0, ring.appended - int(generator.integers(0, 20))))
"""


def test_a_killed_writer_leaves_only_whole_rows(tmp_path):
    chance = random.Random(0)
    kept_rows = 0
    for round_number in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "ring", str(round_number)], stdout=subprocess.PIPE, text=True
        ) as writer:
            for _ in range(chance.randrange(8, 60)):
                reported = int(writer.stdout.readline())
            # Half of the lines announce an append: the signal then falls into the copying of up to 3 MB of rows.
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL

        ring = Ring.mapped(tmp_path / "ring", {"x": Column("int64", (16384,)), "y": Column("int64")}, 48)
        numbers = np.array(ring.kept, np.int64)
        gathered = ring.gather(numbers)
        ring.close()
        assert ring.appended >= reported - 20  # rewound by less than 20 at a time, and numbered on
        assert np.array_equal(gathered["y"], numbers)
        assert np.array_equal(gathered["x"], np.broadcast_to(numbers[:, None], gathered["x"].shape))
        kept_rows += len(numbers)
    assert kept_rows > 12  # an empty ring would have passed too
