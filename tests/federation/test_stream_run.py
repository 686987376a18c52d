"""The daemon's settings, and the parts that they choose."""

import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.federation.stream_run import (
    StreamRun,
    open_dead_letters,
    open_ring,
    open_stream,
    pump_for,
)
from fedmb.federation.stream_schema import schema_text
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.launch import bundle
from fedmb.ledger import Position
from fedmb.replay.lock_holder import lock_holder
from fedmb.settings import load

SCHEMA = {"id": Column("int64")}


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "schema.json").write_text(schema_text(SCHEMA))
    log = FileLog.open(tmp_path / "log", fsync=FsyncPolicy.never(), create=True)
    with closing(log.writer("rows", 0)) as writer:
        writer.append(b'{"id": 7}')
        writer.append(b"broken")
    return StreamRun(
        url=f"file:{tmp_path}/log?topic=rows&codecs=json",
        ring=tmp_path / "rows.ring",
        schema_file=tmp_path / "schema.json",
        max_bytes=1 << 16,
    )


def test_the_documented_defaults_are_the_defaults():
    documented = load(StreamRun, file=bundle() / "streams" / "daemon.toml")

    assert documented == StreamRun(url=documented.url, ring=documented.ring)


def test_the_parts_move_rows_into_the_ring_and_set_aside_what_is_broken(settings, tmp_path):
    class Twice:
        """Lets a pump look at its log until the ring is at its end."""

        def is_set(self):
            return ring.ledger.position(stream.reader.partitions[0]) == Position(2)

        def wait(self, timeout):
            return self.is_set()

    stream = open_stream(settings)
    with (
        closing(stream.reader),
        closing(open_ring(settings, stream.reader)) as ring,
        closing(open_dead_letters(settings, stream)) as letters,
    ):
        pump = pump_for(settings, stream, ring, letters)
        pump.run(Twice())

        assert (pump.statistics().rows, pump.statistics().rejected) == (1, {"DecodeError": 1})
    kept = FileLog.open(tmp_path / "rows.ring.dead-letters", fsync=FsyncPolicy.never(), create=False)
    assert kept.partitions("rows.dlq") == (0,)


def test_a_ring_that_another_has_is_refused_with_the_owners_process(settings):
    stream = open_stream(settings)
    code = (
        "import sys; from pathlib import Path; from fedmb.federation.stream_run import *; "
        "s = StreamRun.model_validate_json(sys.argv[1]); r = open_ring(s, open_stream(s).reader); "
        "print('made', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, settings.model_dump_json()]
    with (
        closing(stream.reader),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout.readline() == "made\n"

        with pytest.raises(AlreadyOwned, match=str(settings.ring)) as raised:
            open_ring(settings, stream.reader)
        other.stdin.close()

    assert raised.value.__notes__ == [f"process {other.pid} has it"]
    assert lock_holder(settings.ring) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "url must be given"),
        ({"url": "memory:x?topic=rows", "ring": "r"}, "filled by another process"),
        ({"url": "file:x", "ring": "r"}, "must name its topic"),
        ({"url": "file:x?topic=rows&codecs=jsn", "ring": "r"}, r"did you mean json\?"),
        ({"url": "file:x?topic=rows", "ring": "r", "on_full": "drop"}, "on_full"),
        ({"url": "file:x?topic=rows", "ring": "r", "watching.port": 70000}, "watching.port"),
    ],
)
def test_a_daemon_that_cannot_be_is_refused(given, words):
    with pytest.raises(SettingsError, match=words):
        load(StreamRun, explicit=given)


def test_a_ring_of_other_columns_is_refused(settings, tmp_path):
    stream = open_stream(settings)
    with closing(stream.reader):
        open_ring(settings, stream.reader).close()
        (tmp_path / "schema.json").write_text(schema_text({"id": Column("int32")}))

        with pytest.raises(SettingsError, match="a ring's file must fit its settings"):
            open_ring(settings, stream.reader)


def test_a_ring_that_the_disk_cannot_hold_leaves_nothing_half_made(settings):
    stream = open_stream(settings)
    with closing(stream.reader):
        with pytest.raises(SettingsError, match="must fit on its disk"):
            open_ring(settings.model_copy(update={"max_bytes": 1 << 50}), stream.reader)

        with closing(open_ring(settings, stream.reader)) as ring:
            assert ring.ledger.position(stream.reader.partitions[0]) == Position(0)
    assert np.dtype(ring.schema["id"].dtype) == np.int64
