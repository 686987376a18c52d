"""A view of a ring gives whole rows whatever its writer does in the middle of a copy; see tests/processes too."""

from __future__ import annotations

import numpy as np
import pytest
from telling_rows import PLAIN, TEXTS, count_torn, ledger, rows

from fedmb.errors import CorruptRing, NotEnoughData, VersionMismatch
from fedmb.replay.ring import Ring
from fedmb.replay.ring_commit import SLOT_BYTES
from fedmb.replay.ring_file import ring_head
from fedmb.replay.ring_rows import RingRows
from fedmb.replay.ring_view import RingView


@pytest.fixture
def ring(tmp_path):
    ring = Ring.mapped(tmp_path / "ring", TEXTS, 100)
    ring.append(rows(0, 250, TEXTS), ledger=ledger(250))
    yield ring
    ring.close()


@pytest.fixture
def view(ring, tmp_path):
    with RingView.open(tmp_path / "ring") as view:
        yield view


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def test_a_view_follows_its_ring(ring, view):
    assert (view.kept, view.ledger, view.appended) == (range(150, 250), ledger(250), 250)
    assert dict(view.schema) == {name: TEXTS[name] for name in sorted(TEXTS)}
    assert view.capacity == 100

    ring.append(rows(250, 260, TEXTS), ledger=ledger(260))

    assert view.state() == (range(160, 260), ledger(260))
    assert count_torn(range(160, 260), view.gather(np.arange(160, 260))) == 0
    assert view.statistics() == ring.statistics()


def test_rows_that_are_not_kept_are_refused(view):
    for number in (149, 250):
        with pytest.raises(NotEnoughData, match="must be kept ones, 150 to 249"):
            view.gather(np.array([200, number]))


def overtaken(monkeypatch, times, action, spoilt=(0, 1 << 40)):
    """Let the writer act in the middle of the next few copies, which meet what it writes in the spoilt rows."""
    read, left = RingRows.read, [times]

    def torn(self, row_ids):
        columns = read(self, row_ids)
        if left[0]:
            left[0] -= 1
            action()
            for name in columns:
                columns[name][(spoilt[0] <= row_ids) & (row_ids < spoilt[1])] = 1 << 40
        return columns

    monkeypatch.setattr(RingRows, "read", torn)


def test_rows_overwritten_while_they_were_copied_are_drawn_again(ring, view, generator, monkeypatch):
    def overwrite():
        ring.append(rows(ring.appended, ring.appended + 100, TEXTS))

    overtaken(monkeypatch, 3, overwrite)
    sample = view.sample(64, generator)

    assert count_torn(sample.ids, sample.columns) == 0
    assert set(sample.ids.tolist()) <= set(ring.kept)
    assert view.redrawn == 3 * 64


def test_only_overwritten_rows_are_drawn_again(ring, view, generator, monkeypatch):
    overtaken(monkeypatch, 1, lambda: ring.append(rows(250, 300, TEXTS)), (150, 200))
    sample = view.sample(1000, generator)

    assert len(sample) == 1000
    assert count_torn(sample.ids, sample.columns) == 0
    assert sample.ids.min() >= 200
    assert 400 < view.redrawn < 600


def test_gathering_overwritten_rows_is_refused(ring, view, monkeypatch):
    overtaken(monkeypatch, 1, lambda: ring.append(rows(250, 260, TEXTS)), (150, 160))

    with pytest.raises(NotEnoughData, match="must be kept ones, 160 to 259"):
        view.gather(np.arange(150, 250))


def test_rows_numbered_anew_while_they_were_copied_are_copied_again(ring, view, generator, monkeypatch):
    def rewind():
        ring.rewind(240)
        ring.append(rows(240, 250, TEXTS))

    overtaken(monkeypatch, 1, rewind, (240, 250))
    assert count_torn(range(230, 250), view.gather(np.arange(230, 250))) == 0
    monkeypatch.undo()
    overtaken(monkeypatch, 1, rewind, (240, 250))
    sample = view.sample(8, generator)
    assert count_torn(sample.ids, sample.columns) == 0
    assert view.redrawn == 8


def test_a_writer_that_is_always_faster_is_told(ring, view, generator, monkeypatch):
    overtaken(monkeypatch, 10**6, lambda: ring.append(rows(ring.appended, ring.appended + 100, TEXTS)))

    with pytest.raises(NotEnoughData, match="raise the ring's capacity"):
        view.sample(4, generator)


def test_every_kept_row_is_equally_likely(view, generator):
    drawn = np.bincount(view.sample(100_000, generator).ids, minlength=250)

    assert not drawn[:150].any()
    chi_square = ((drawn[150:] - 1000) ** 2 / 1000).sum()
    assert chi_square < 99 + 4 * np.sqrt(2 * 99)


def test_no_row_to_draw_is_told(tmp_path, generator):
    ring = Ring.mapped(tmp_path / "ring", PLAIN, 5)

    with RingView.open(tmp_path / "ring") as view:
        with pytest.raises(NotEnoughData, match="has none at this moment"):
            view.sample(1, generator)
        with pytest.raises(ValueError, match="1 row or more, got 0"):
            view.sample(0, generator)
    ring.close()


def test_a_view_notices_another_file_in_its_place(ring, view, tmp_path):
    assert not view.is_replaced()

    (tmp_path / "ring").unlink()
    assert view.is_replaced()
    Ring.mapped(tmp_path / "ring", PLAIN, 5).close()
    assert view.is_replaced()


def test_a_view_writes_nothing(ring, view, tmp_path, generator):
    before = (tmp_path / "ring").read_bytes()

    view.sample(10, generator)
    with pytest.raises(ValueError, match="read-only"):
        view._rows.store.column("number")[0] = 1

    assert (tmp_path / "ring").read_bytes() == before


@pytest.mark.parametrize("size", [0, 4096])
def test_a_ring_that_is_being_made_is_not_enough(tmp_path, size):
    Ring.mapped(tmp_path / "ring", PLAIN, 5).close()
    with (tmp_path / "ring").open("r+b") as file:
        file.truncate(size)

    with pytest.raises(NotEnoughData, match="is not finished"):
        RingView.open(tmp_path / "ring")


def test_what_is_no_whole_ring_is_refused(ring, tmp_path):
    content = (tmp_path / "ring").read_bytes()
    head = ring_head(ring._layout)
    for name, damaged, error in [
        ("notes", b"hello, world" * 1000, CorruptRing),
        ("old", content[:8] + b"\1" + content[9:], VersionMismatch),
        ("cut", content[:-1], CorruptRing),
    ]:
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(error):
            RingView.open(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        RingView.open(tmp_path / "nothing")
    blank = content[: head.commits] + bytes(2 * SLOT_BYTES) + content[head.data :]
    (tmp_path / "blank").write_bytes(blank)
    with RingView.open(tmp_path / "blank") as view, pytest.raises(CorruptRing, match="restart its writer"):
        view.state()
