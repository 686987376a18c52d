"""A stream of numbered rows, a real `fedmb stream run` that moves it into a ring, and what must lie there then."""

import contextlib
import urllib.error
import urllib.request
from contextlib import closing

import numpy as np
from programs import Program

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData
from fedmb.federation.stream_ledger import ledger_at
from fedmb.federation.stream_schema import schema_text
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ingest.stream_url import StreamUrl, open_log
from fedmb.ledger import Position
from fedmb.replay.ring_source import RingSource

SCHEMA = {"id": Column("int64"), "x": Column("float32", (4,))}
CODEC = SampleCodec(SCHEMA)
APART = 1_000_000  # between the numbers of two partitions


class PouredStream:
    """A log in `place`, or at `url`, that a daemon reads; rows of each partition are numbered through."""

    def __init__(self, place, partitions=1, url=""):
        self.place, self.ring = place, place / "rows.ring"
        numbers = ",".join(map(str, range(partitions)))
        self.url = url or f"file:{place}/log?topic=rows&partitions={numbers}"
        (place / "schema.json").write_text(schema_text(SCHEMA))
        self.log = open_log(self.url)
        self.writers = [self.log.writer(StreamUrl.parse(self.url).topic, number) for number in range(partitions)]
        self.written = [0] * partitions

    def fill(self, rows):
        """Append so many rows to each partition."""
        for number, writer in enumerate(self.writers):
            first = APART * number + self.written[number]
            ids = np.arange(first, first + rows)
            columns = {"id": ids, "x": np.repeat(ids[:, None], 4, axis=1).astype(np.float32)}
            writer.append_many(CODEC.encode_rows(columns), codec_headers(CODEC))
            writer.flush()
            self.written[number] += rows

    def daemon(self, name="daemon", *options):
        schema = ("--schema", self.place / "schema.json")
        size = ("--set", "max_bytes=1048576")
        return Program(self.place, name, "stream", "run", self.url, "--ring", self.ring, *schema, *size, *options)

    def places(self):
        """Where the ring's ledger stands in each partition."""
        return sorted(ledger_at(self.ring).values()) if self.ring.exists() else []

    def is_all_there(self):
        """Whether the ring's ledger is at the end of what was written."""
        return self.places() == sorted(Position(count) for count in self.written)

    def rows(self):
        """Numbers of the rows in the ring, in their order."""
        with closing(RingSource(self.ring, SCHEMA, patience_seconds=0.0)) as source, contextlib.suppress(NotEnoughData):
            columns = source.take(10**6).columns
            assert (columns["x"] == columns["id"][:, None].astype(np.float32)).all(), "no row is torn"
            return columns["id"].tolist()
        return []

    def check_once_each_in_order(self):
        found = self.rows()
        for number, count in enumerate(self.written):
            mine = [one for one in found if one // APART == number]
            assert mine == list(range(APART * number, APART * number + count)), f"partition {number}"
        assert len(found) == sum(self.written)


def asked(running, path):
    address = running.logged("metrics=http://").split("/")[0]
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
