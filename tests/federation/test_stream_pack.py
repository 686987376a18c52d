"""URLs choose what is packed into what."""

import threading
from contextlib import closing

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.federation.stream_pack import open_packers
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.pack import pack
from fedmb.ingest.packed_codec import PackedCodec

SCHEMA = {"id": Column("int64")}
JSON = JsonCodec(SCHEMA)


@pytest.fixture
def log(tmp_path):
    """Two partitions of JSON rows, the second with a broken record."""
    made = FileLog.open(tmp_path / "log", fsync=FsyncPolicy.never(), create=True)
    for partition in (0, 1):
        with closing(made.writer("rows", partition)) as writer:
            for number in range(10):
                columns = {"id": np.array([100 * partition + number])}
                writer.append(JSON.encode(columns), codec_headers(JSON))
            if partition:
                writer.append(b"broken")
    return made


def test_two_partitions_are_packed_and_what_is_broken_is_set_aside(log, tmp_path):
    source, target = f"file:{log.path}?topic=rows&partitions=0,1", f"file:{log.path}?topic=packed&partitions=0,1"

    packers, letters = open_packers(source, target, SCHEMA, rows=4, linger_seconds=60.0)
    found = pack(packers, threading.Event(), to_the_end=True)
    letters.close()

    assert (found.rows, found.records, found.rejected) == (20, 6, 1)
    assert log.partitions("rows.dlq") == (1,)
    with closing(LogSource(log.reader("packed", [0, 1]), [PackedCodec(SCHEMA)])) as packed:
        assert sorted(packed.take(20).columns["id"]) == [*range(10), *range(100, 110)]


def test_other_partitions_than_the_sources_are_refused(log):
    with pytest.raises(SettingsError, match=r"must have its source's partitions \[0, 1\], got \[0\]"):
        open_packers(
            f"file:{log.path}?topic=rows&partitions=0,1",
            f"file:{log.path}?topic=packed",
            SCHEMA,
            rows=4,
            linger_seconds=1.0,
        )
    log.writer("packed", 0).close()
