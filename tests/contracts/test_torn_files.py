"""Checkpoints, log segments and rings torn at random places: told, or harmless; never a wrong row or a wrong model.

Each kind is torn 300 times; FEDMB_TEARS=10000 is `make soak`'s.
"""

import os
import random
import shutil
from contextlib import closing

import numpy as np
import pytest
from numbered_ring import PARTITIONS, SCHEMA, feed, learnt, make_ring, position, stretch

from fedmb.errors import CorruptCheckpoint, CorruptLog, FedmbError, NotEnoughData
from fedmb.federation import checkpoint
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ledger import Ledger, Position
from fedmb.replay.ring_cursor import cursor_path
from fedmb.replay.ring_source import RingSource

pytestmark = [pytest.mark.timeout(0), pytest.mark.soak]

TEARS = int(os.environ.get("FEDMB_TEARS", "300"))
RECORDS, SEGMENT_BYTES = 120, 2000
ROWS, END = 300, 120  # rows of the ring, and the offset in each partition at which its stream ends


@pytest.fixture
def chance():
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it with a failure
    return random.Random(seed)


def tear(path, chance, within=None):
    """Cut a file off, flip bits of it, or blank a sector, somewhere in `within`."""
    data = bytearray(path.read_bytes())
    start, stop = within or (0, len(data))
    at = chance.randrange(start, stop)
    match chance.randrange(3):
        case 0:
            del data[at:]
        case 1:
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)
        case 2:
            data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)


def version(number):
    """A model of this version, whose every number says so."""
    arrays = {"weight": np.full((20, 5), number, np.float32), "bias": np.full(5, -number, np.float32)}
    ledger = Ledger({one: Position(number, 0) for one in PARTITIONS})
    return checkpoint.ServerState(version=number, arrays=arrays, ledger=ledger, positions={"a": {"cursor": number}})


def test_of_torn_checkpoints_the_newest_whole_one_is_used(tmp_path, chance):
    whole, used, refused = tmp_path / "whole", 0, 0
    for number in (1, 2, 3):
        checkpoint.save(whole, version(number), checkpoint.Checkpoints(keep=3))
    for _ in range(TEARS):
        torn = tmp_path / "torn"
        shutil.copytree(whole, torn)
        files = [path for _, path in checkpoint.generations(torn)]
        for path in files[-chance.choice([1, 1, 1, 2, 3]) :]:
            tear(path, chance)
        untouched = [path for path in files if path.read_bytes() == (whole / path.name).read_bytes()]

        if untouched:
            number = files.index(untouched[-1]) + 1
            assert checkpoint.to_bytes(checkpoint.newest(torn)) == checkpoint.to_bytes(version(number))
            used += 1
        else:
            with pytest.raises(CorruptCheckpoint, match=r"all 3 in .* are damaged"):
                checkpoint.newest(torn)
            refused += 1
        shutil.rmtree(torn)

    assert used > 0
    assert refused > 0


def open_file_log(path):
    return FileLog.open(path, id="log", fsync=FsyncPolicy.never(), segment_bytes=SEGMENT_BYTES, create=True)


def read_from(log, offset):
    """Values from an offset on, and what the reader met behind them."""
    found = []
    with closing(log.reader("t", [0])) as reader:
        reader.seek(reader.partitions[0], offset)
        try:
            while records := reader.poll(0.0):
                found += [(record.offset, bytes(record.value), record.headers["n"]) for record in records]
        except CorruptLog as error:
            return found, error
    return found, None


def test_a_torn_log_gives_what_was_written_up_to_the_damage(tmp_path, chance):
    log, sizes = open_file_log(tmp_path / "whole"), random.Random(7)
    written = [(number, sizes.randbytes(sizes.randrange(100)), b"%d" % number) for number in range(RECORDS)]
    with closing(log.writer("t", 0)) as writer:
        for _, value, header in written:
            writer.append(value, {"n": header})
    segments = sorted((tmp_path / "whole" / "t" / "0").glob("*.log"))
    assert len(segments) > 4
    cut_off = damaged = 0
    for _ in range(TEARS):
        folder, torn = tmp_path / "torn", chance.choice(segments)
        shutil.copytree(tmp_path / "whole", folder)
        tear(folder / "t" / "0" / torn.name, chance)
        log, first = open_file_log(folder), chance.choice([0, chance.randrange(RECORDS)])
        is_last = torn == segments[-1]
        found, error = read_from(log, first)

        assert found == written[first : first + len(found)]
        assert error is not None or is_last or first + len(found) == RECORDS
        # Whoever seeks finds damage in front of the offset too, where it hides the way there.
        assert error is None or error.offset == first + len(found) or (not found and error.offset < first)
        try:
            with closing(log.writer("t", 0)) as writer:
                end = writer.append(b"after", {"n": b"%d" % writer.end_offset})
        except CorruptLog:
            assert is_last
            damaged += 1
        else:
            behind, error = read_from(log, 0)
            assert behind == [*written[:end], (end, b"after", b"%d" % end)][: len(behind)]
            assert error is not None or len(behind) == end + 1
            assert is_last or end == RECORDS
            cut_off += is_last and end < RECORDS
        shutil.rmtree(folder)

    assert cut_off > 0
    assert damaged > 0


def half_used(folder):
    """A ring whose rows were learnt in part, and the ledger of the model that learnt them."""
    ring, learning = make_ring(folder / "ring", ROWS), Ledger()
    with closing(ring), closing(opened(folder)) as source:
        for _ in range(4):
            feed(ring, [(0, 40), (1, 35), (2, 25)])
            learning = learnt(learning, source.take(90))
            source.seek(position(learning))
        ring.flush()
        feed(ring, [(0, 10), (1, 10)])
    return learning


def opened(folder):
    return RingSource(folder / "ring", SCHEMA, linger_seconds=0.0, patience_seconds=0.0)


def pour_and_learn(folder, learning):
    """What daemon and trainer do until the stream ends; each batch is held to hold exactly the rows of its span."""
    taken = []
    with closing(make_ring(folder / "ring", ROWS)) as ring, closing(opened(folder)) as source:
        source.seek(position(learning))
        while any(learning.position(one).offset < END for one in PARTITIONS):
            for index, one in enumerate(PARTITIONS):
                here = ring.ledger.position(one)
                left = len(stretch(index, here, Position(END))) if here.offset < END else 0
                feed(ring, [(index, min(left, 30, ring.room()))])
                if left == 0 and here < Position(END):
                    ring.pass_over({one: Position(END)})
            try:
                batch = source.take(100)
            except NotEnoughData:
                break
            learning = learnt(learning, batch)
            taken += batch.columns["y"].tolist()
            source.seek(position(learning))
    return taken


def test_a_torn_ring_is_refused_or_every_row_is_learnt_once(tmp_path, chance):
    whole = tmp_path / "whole"
    whole.mkdir()
    learning = half_used(whole)
    expected = sorted(
        row for index, one in enumerate(PARTITIONS) for row in stretch(index, learning.position(one), Position(END))
    )
    size = (whole / "ring").stat().st_size
    layout = [(0, 4096), (4096, 5 * 4096), (5 * 4096, size), (0, size)]  # description, commits, rows and marks, all
    exact, refusals = 0, []
    for _ in range(TEARS):
        folder = tmp_path / "torn"
        shutil.copytree(whole, folder)
        tear(folder / "ring", chance, chance.choice(layout))
        if chance.random() < 0.2:
            tear(cursor_path(folder / "ring"), chance)
        try:
            taken = pour_and_learn(folder, learning)
        except FedmbError as error:
            refusals.append(str(error))
        else:
            assert sorted(taken) == expected
            exact += 1
        shutil.rmtree(folder)

    assert all(str(tmp_path / "torn" / "ring") in said and "; " in said for said in refusals), refusals
    assert len(refusals) > 0
    assert exact > 0
