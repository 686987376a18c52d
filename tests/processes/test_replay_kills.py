"""A replay service that is killed at any moment loses nothing that it had acknowledged, and gives no torn row.

The number of kills is 20; `FEDMB_KILLS=1000 make soak` raises it.
"""

import os
import random
import signal
import threading

import pytest
from kafka_broker import free_port
from replay_child import started
from replay_service import is_whole, numbered

from fedmb.replay.remote import RemoteTable

pytestmark = pytest.mark.timeout(250)  # but for kills, which may be many
KILLS = int(os.environ.get("FEDMB_KILLS", "20"))
CAPACITY = 4000
BLOCK = 60
DRAWN, MOST_DRAWS = 2000, 100  # rows and samples: a row that is there is missed with a chance of e^-50


class Service:
    """A service that can be killed, and started again at its address."""

    def __init__(self, folder, capacity=CAPACITY):
        self.folder, self.capacity, self.port = folder, capacity, free_port()
        self.start()

    def start(self):
        self.process = started("serve", self.folder, self.port, self.capacity)
        self.address = self.process.stdout.readline().strip()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.returncode is None:
            self.kill()


class Writer(threading.Thread):
    """Appends until told to stop, over every kill; knows what was acknowledged."""

    def __init__(self, address, transport):
        super().__init__()
        self.table = RemoteTable(address, transport=transport, reconnect_seconds=60)
        self.ending = threading.Event()
        self.may_append = threading.Event()
        self.may_append.set()
        self.progress = threading.Semaphore(0)
        self.acknowledged = 0
        self.ids = []
        self.error = None

    def run(self):
        try:
            while not self.ending.is_set():
                self.may_append.wait()
                ids = self.table.append(numbered(self.acknowledged, BLOCK))
                self.ids.append((self.acknowledged, ids))
                self.acknowledged += BLOCK
                self.progress.release()
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.error = error
            self.progress.release()


def kept(address, wanted):
    """Rows of the table by id, all of them whole: drawn until those wanted were, or never will be."""
    found = {}
    with RemoteTable(address) as table:
        for _ in range(MOST_DRAWS):
            sample = table.sample(DRAWN)
            assert is_whole(sample.columns), "a torn row"
            found.update(zip(sample.ids.tolist(), sample.columns["number"].tolist(), strict=True))
            if wanted <= found.keys():
                break
    return found


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("transport", ["grpc", "shared"])
def test_what_was_acknowledged_is_there_after_every_kill(tmp_path, transport):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    choice = random.Random(seed)  # when to kill
    with Service(tmp_path / "table") as service:
        writer = Writer(service.address, transport)
        writer.start()
        try:
            for kill in range(max(1, KILLS // 2)):
                for _ in range(choice.randrange(1, 60)):
                    assert writer.progress.acquire(timeout=100)
                threading.Event().wait(choice.random() / 200)  # anywhere in the next appends
                service.kill()
                writer.may_append.clear()  # but for the insert under way, which overwrites none of those looked for
                known = {}
                for first, ids in writer.ids[-CAPACITY // BLOCK // 2 :]:
                    known |= zip(ids.tolist(), range(first, first + BLOCK), strict=True)
                service.start()
                found = kept(service.address, known.keys())
                assert {one: found.get(one) for one in known} == known, f"kill {kill}"
                writer.may_append.set()
        finally:
            writer.ending.set()
            writer.may_append.set()
            if service.process.returncode is not None:
                service.start()
            writer.join(100)
            writer.table.close()
    assert writer.error is None


def test_sampling_goes_on_from_the_snapshot_bit_for_bit(tmp_path):
    def drawn():
        with RemoteTable(service.address, prefetch=3) as table:
            return [table.sample(33) for _ in range(20)]

    with Service(tmp_path / "table") as service:
        with RemoteTable(service.address) as table:
            table.append(numbered(0, 1000))
        drawn()
        with RemoteTable(service.address) as table:
            table.snapshot()
        first = drawn()
        service.kill()
        service.start()
        again = drawn()

    assert all((one.ids == other.ids).all() for one, other in zip(first, again, strict=True))
    assert all((one.columns["x"] == other.columns["x"]).all() for one, other in zip(first, again, strict=True))


def test_rows_on_their_way_are_sent_again_to_the_next_service(tmp_path):
    columns = numbered(0, 3000)
    with Service(tmp_path / "table") as service:
        with RemoteTable(service.address, block_rows=20, reconnect_seconds=60) as table:
            for number, row in enumerate(zip(*columns.values(), strict=True)):
                table.append_row(row)
                if number in {700, 2100}:
                    service.kill()
                    service.start()
        with RemoteTable(service.address) as table:
            rows = len(table)
        found = kept(service.address, set(range(rows)))

    assert len(found) == rows
    assert set(found.values()) == set(range(3000))
    assert rows <= 3000 + 2 * 16 * 20, "at most what was not acknowledged is there twice"
