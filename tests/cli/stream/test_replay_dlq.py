import json

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.cli import main
from fedmb.errors import DecodeError
from fedmb.exit_codes import ExitCode
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.log import Record
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.stream_url import open_log
from fedmb.ledger import StreamPartition


@pytest.fixture
def stream(tmp_path, monkeypatch):
    """Five letters of `rows`, one of which no codec reads, in a log of the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.json").write_text(json.dumps({"columns": {"n": {"dtype": "int64", "shape": []}}}))
    codec = PackedCodec({"n": Column("int64")})
    sink = LogDeadLetters(open_log("file:log?topic=rows"))
    for offset in range(5):
        value = codec.encode({"n": np.array([offset])}) if offset != 2 else b"nonsense"
        sink.set_aside(Record(StreamPartition("k", "rows", 0), offset, 0, value, {}), DecodeError("not yet"))
    sink.close()
    return ["stream", "replay-dlq", "file:log?topic=rows", "--schema", "schema.json"]


def test_it_tells_what_went_back_and_what_stays(stream, capsys):
    assert main([*stream, "--dry-run"]) == ExitCode.OK
    assert main([*stream, "--limit", "2"]) == ExitCode.OK
    assert main(stream) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "would replay 4 of 5 letters to file:log?topic=rows, 0 replayed before"
    assert lines[2] == "replayed 2 of 2 letters to file:log?topic=rows, 0 replayed before"
    assert lines[3] == "replayed 2 of 5 letters to file:log?topic=rows, 2 replayed before"
    assert lines[1] == lines[4]
    assert lines[1].startswith("still DecodeError: 1; the last: ")


def test_it_names_the_key_that_breaks_a_rule(stream, capsys):
    assert main([*stream, "--to", "flie:x?topic=y"]) == ExitCode.SETTINGS
    assert "did you mean file:" in capsys.readouterr().err
