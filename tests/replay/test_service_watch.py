import errno
import threading
from contextlib import closing

import pytest
from replay_service import SCHEMA, numbered

from fedmb.errors import Unreachable
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.remote import RemoteTable
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.served_table import ServedTable
from fedmb.replay.service import ReplayService
from fedmb.replay.service_access import Listening
from fedmb.replay.service_watch import ServiceWatch
from fedmb.telemetry.supervisor import Supervisor

pytestmark = pytest.mark.timeout(60)


class FullDisk(ServedTable):
    """A table whose snapshots a disk does not take."""

    def snapshot(self):
        raise OSError(errno.ENOSPC, "No space left on device")


class Running:
    """A service under watch, in a thread."""

    def __init__(self, table, *, seconds=1e6):
        self.stop = threading.Event()
        self.service = ReplayService({"default": table}, Listening())
        self.watch = ServiceWatch(self.service, self.stop, snapshot_seconds=seconds)
        self.ended, self.error = None, None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            self.ended = self.watch.run(Supervisor())
        except OSError as error:
            self.error = error

    def __enter__(self):
        assert self.watch.unready() == "the service was not started yet"
        self.thread.start()
        while self.watch.unready() == "the service was not started yet":
            threading.Event().wait(0.001)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def figures(watch):
    return {
        (sample.name, *sample.labels.values()): sample.value for family in watch.figures() for sample in family.samples
    }


def test_it_serves_until_it_is_told_to_stop_and_stores_its_tables(tmp_path):
    with closing(ReplayTable(SCHEMA, 100, limiter=RateLimiter.min_rows(1))) as table:
        with Running(ServedTable(table, tmp_path)) as running, RemoteTable(running.service.address) as client:
            client.append(numbered(0, 10))
            client.sample(4)
            found = figures(running.watch)
            assert running.watch.unready() == running.watch.unhealthy() == ""

        assert running.ended == 10
        assert running.watch.unready() == "the service is draining"
        assert list(tmp_path.glob("snapshot-*"))
        assert found["fedmb_replay_rows", "default"] == 10
        assert found["fedmb_replay_appended_total", "default"] == 10
        assert found["fedmb_replay_waited_seconds_total", "default", "sample"] >= 0
        assert found["fedmb_replay_streams",] >= 1
        with pytest.raises(Unreachable):
            RemoteTable(running.service.address)


def test_tables_are_stored_when_it_is_time(tmp_path):
    with closing(ReplayTable(SCHEMA, 100)) as table:
        served = ServedTable(table, tmp_path)
        with Running(served, seconds=0.01) as running:
            while served.snapshot_age is None:
                threading.Event().wait(0.001)
            assert ("fedmb_replay_snapshot_age_seconds", "default") in figures(running.watch)


def test_a_disk_that_is_full_is_said_and_does_not_end_the_service(tmp_path):
    with closing(ReplayTable(SCHEMA, 100)) as table:
        with Running(FullDisk(table, tmp_path), seconds=0.01) as running:
            while not running.watch.unhealthy():
                threading.Event().wait(0.001)
            assert "table default cannot be stored" in running.watch.unready()
            with RemoteTable(running.service.address) as client:
                client.append(numbered(0, 3))

        assert running.error.errno == errno.ENOSPC, "at its end there is no other time"


def test_a_snapshot_that_a_client_asks_for_meets_a_full_disk(tmp_path):
    from fedmb.errors import FedmbError

    with (
        closing(ReplayTable(SCHEMA, 100)) as table,
        ReplayService({"default": FullDisk(table, tmp_path)}, Listening()) as service,
        RemoteTable(service.address) as client,
    ):
        with pytest.raises(FedmbError, match="No space left"):
            client.snapshot()
        assert len(client) == 0
