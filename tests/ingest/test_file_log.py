import json
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from fedmb.errors import SettingsError, VersionMismatch
from fedmb.ingest.file_log import FileLog, FsyncPolicy


def opened(path, **options) -> FileLog:
    return FileLog.open(path, **{"fsync": FsyncPolicy.never(), "create": True, **options})


def append(log: FileLog, value: bytes) -> None:
    with closing(log.writer("t", 0)) as writer:
        writer.append(value)


def test_a_log_keeps_the_id_it_was_given(tmp_path):
    assert opened(tmp_path / "a", id="meter").id == "meter"
    assert opened(tmp_path / "a").id == "meter"
    assert opened(tmp_path / "a", id="meter", create=False).id == "meter"


def test_logs_made_without_an_id_have_different_ones(tmp_path):
    assert opened(tmp_path / "a").id != opened(tmp_path / "b").id


def test_makers_at_the_same_time_find_the_same_id(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        ids = {log.id for log in pool.map(lambda _: opened(tmp_path / "log"), range(32))}

    assert len(ids) == 1
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["log.json"]


def test_another_id_is_refused(tmp_path):
    opened(tmp_path, id="meter")

    with pytest.raises(SettingsError, match="'pump', got 'meter'"):
        opened(tmp_path, id="pump")


@pytest.mark.parametrize("log_id", ["", "a\nb"])
def test_an_id_that_no_ledger_could_show_is_refused(tmp_path, log_id):
    with pytest.raises(SettingsError, match="printable"):
        opened(tmp_path / "log", id=log_id)


def test_a_missing_log_is_not_made_unasked(tmp_path):
    with pytest.raises(SettingsError, match="create=True"):
        opened(tmp_path / "log", create=False)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    "description", [b"", b"{}", b"[]", b'{"format": 2, "id": "x"}', b'{"format": 1, "id": 3}', b"\xff"]
)
def test_a_description_of_another_form_is_refused(tmp_path, description):
    (tmp_path / "log.json").write_bytes(description)

    with pytest.raises(VersionMismatch, match=r"log\.json"):
        opened(tmp_path)


def test_the_description_is_readable(tmp_path):
    opened(tmp_path, id="meter")

    assert json.loads((tmp_path / "log.json").read_text()) == {"format": 1, "id": "meter"}


def test_a_topic_may_not_take_the_descriptions_place(tmp_path):
    with pytest.raises(SettingsError, match="rename"):
        opened(tmp_path).writer("log.json", 0)


def test_a_segment_needs_room(tmp_path):
    with pytest.raises(SettingsError, match="got 0"):
        opened(tmp_path, segment_bytes=0)


def test_a_log_travels_to_another_process(tmp_path):
    log = opened(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=append, args=(log, b"from afar"))
    process.start()
    with closing(pickle.loads(pickle.dumps(log)).reader("t", [0])) as reader:  # noqa: S301  # our own bytes
        (record,) = reader.poll(20.0)
    process.join()

    assert bytes(record.value) == b"from afar"


def test_importing_logs_loads_no_framework():
    modules = "file_log memory_log log_source packed_codec json_codec dead_letter producer stream_url"
    probe = "; ".join(f"import fedmb.ingest.{module}" for module in modules.split())
    probe += "; import sys; print({'torch', 'flwr', 'kafka'} & {*sys.modules})"

    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "set()"
