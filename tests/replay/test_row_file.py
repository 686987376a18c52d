"""The file of a store has one owner, and is refused where it cannot be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, CorruptRing, SettingsError, VersionMismatch
from fedmb.replay.ring_layout import PREFIX
from fedmb.replay.row_store import RowStore

SCHEMA = {"x": Column("float32", (3,)), "y": Column("int64")}


@pytest.fixture
def path(tmp_path):
    """A closed store whose row 3 holds fives."""
    store = RowStore.mapped(tmp_path / "store", SCHEMA, 8)
    store.write_row(3, [np.full(3, 5, np.float32), 5])
    store.flush()
    store.close()
    return tmp_path / "store"


def damage(path, at, content):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_rows_come_back(path):
    store = RowStore.mapped(path, dict(reversed(SCHEMA.items())), 8)

    assert store.read(np.array([3]))["x"].tolist() == [[5, 5, 5]]
    store.close()


def test_a_second_owner_is_refused_until_the_first_closes(path):
    first = RowStore.mapped(path, SCHEMA, 8)

    with pytest.raises(AlreadyOwned, match="one owner"):
        RowStore.mapped(path, SCHEMA, 8)
    first.close()
    RowStore.mapped(path, SCHEMA, 8).close()


def test_a_view_that_outlives_its_store_can_be_read_and_the_file_has_a_new_owner(path):
    store = RowStore.mapped(path, SCHEMA, 8)
    view = store.column("y")

    store.close()

    assert view[3] == 5
    RowStore.mapped(path, SCHEMA, 8).close()


@pytest.mark.parametrize(
    ("schema", "capacity", "layout", "message"),
    [
        (SCHEMA, 9, "auto", r"capacity 8 \(wanted 9\)"),
        ({**SCHEMA, "y": Column("int32")}, 8, "auto", "columns"),
        (SCHEMA, 8, "rows", r"layout columns \(wanted rows\)"),
    ],
)
def test_other_settings_than_the_files_are_named(path, schema, capacity, layout, message):
    with pytest.raises(SettingsError, match=message):
        RowStore.mapped(path, schema, capacity, layout=layout)


def test_a_file_stays_as_it_is_laid_out(tmp_path):
    RowStore.mapped(tmp_path / "store", SCHEMA, 8, layout="rows").close()

    store = RowStore.mapped(tmp_path / "store", SCHEMA, 8)

    assert RowStore.in_memory(SCHEMA, 8).layout == "columns"
    assert store.layout == "rows"
    store.close()


def test_a_damaged_description_is_refused(path):
    damage(path, PREFIX.size + 3, b"\xa5")

    with pytest.raises(CorruptRing, match="fails its checksum"):
        RowStore.mapped(path, SCHEMA, 8)


def test_another_format_is_refused(path):
    damage(path, 8, b"\x63")

    with pytest.raises(VersionMismatch):
        RowStore.mapped(path, SCHEMA, 8)


def test_a_file_cut_short_is_refused(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)

    with pytest.raises(CorruptRing, match="cut off"):
        RowStore.mapped(path, SCHEMA, 8)


@pytest.mark.parametrize("content", [b"x", b"hello, world" * 1000, b"\0" * 100_000])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "notes").write_bytes(content)

    with pytest.raises(CorruptRing):
        RowStore.mapped(tmp_path / "notes", SCHEMA, 8)
    assert (tmp_path / "notes").read_bytes() == content


def test_a_making_that_was_cut_off_is_begun_again(path):
    size = path.stat().st_size
    damage(path, 0, bytes(PREFIX.size))  # the prefix is written last

    store = RowStore.mapped(path, SCHEMA, 8)
    store.write_row(0, [np.ones(3, np.float32), 1])
    store.close()

    assert path.stat().st_size == size


def test_the_disk_is_reserved_and_only_the_owner_can_read(tmp_path):
    RowStore.mapped(tmp_path / "new" / "store", {"x": Column("uint8", (1024,))}, 2000).close()

    status = (tmp_path / "new" / "store").stat()
    assert status.st_blocks * 512 >= 2000 * 1024
    assert status.st_mode & 0o077 == 0
