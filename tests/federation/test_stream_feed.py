"""A fed stream holds rows of its table, continues where it ends, and drifts where it is told to."""

import json
import sys
import threading

import numpy as np
import pytest

from fedmb.errors import SettingsError, ShapeError
from fedmb.federation.client_source import codecs
from fedmb.federation.stream_feed import StreamFeed, feeder_for
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.stream_url import StreamUrl, open_log
from fedmb.launch import bundle
from fedmb.settings import load
from fedmb.training.task import load_task

STOP = threading.Event()


def fed(**settings):
    """Labels of the rows in the stream, in their order."""
    chosen = load(StreamFeed, explicit={"rows_per_second": float("inf"), **settings})
    feeder_for(chosen).run(STOP)
    stream = StreamUrl.parse(chosen.url)
    task = load_task(chosen.task)
    source = LogSource(open_log(stream).reader(stream.topic, stream.partitions), codecs(task), patience_seconds=0.01)
    try:
        return source.take(10**6).columns["label"]
    finally:
        source.close()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("rows_of_mine", None)
    (tmp_path / "rows_of_mine.py").write_text(MINE)
    return tmp_path


MINE = """
import numpy as np

def numbered(record):
    return {"image": np.full((2, 64), record, np.uint8), "label": np.full(2, record % 10, np.uint8)}

def one(record):
    return {name: column[:1] for name, column in numbered(record).items()}

def few():
    for record in range(5):
        yield numbered(record)

def wrong(record):
    return {"image": np.zeros((2, 3)), "label": np.zeros(2, np.uint8)}

def text(record):
    return "rows"
"""


def test_labels_change_with_the_record_that_is_named(tmp_path):
    labels = fed(
        url=f"file:{tmp_path}?topic=rows",
        records=20,
        rows_per_record=4,
        labels_before=[0, 1],
        labels_after=[7],
        drift_record=12,
    )

    assert set(labels[: 12 * 4]) == {0, 1}
    assert set(labels[12 * 4 :]) == {7}
    assert len(labels) == 80


def test_a_feeder_that_stopped_goes_on_with_the_same_records(tmp_path):
    once = fed(url=f"file:{tmp_path}/once?topic=rows", records=40)
    fed(url=f"file:{tmp_path}/twice?topic=rows", records=15)
    twice = fed(url=f"file:{tmp_path}/twice?topic=rows", records=40)

    assert np.array_equal(once, twice)


def test_two_names_draw_two_streams(tmp_path):
    one, two = (fed(url=f"file:{tmp_path}/{name}?topic=rows", records=20, name=name) for name in "ab")

    assert not np.array_equal(one, two)


def test_rows_may_come_from_a_file(tmp_path):
    np.savez(tmp_path / "rows.npz", image=np.zeros((3, 64), np.uint8), label=np.full(3, 4, np.uint8))

    labels = fed(url=f"file:{tmp_path}/log?topic=rows", records=2, rows=f"table:{tmp_path}/rows.npz")

    assert set(labels) == {4}


def test_a_file_of_another_task_is_refused(tmp_path):
    np.savez(tmp_path / "rows.npz", point=np.zeros((3, 2), np.float32))

    with pytest.raises(ShapeError):
        feeder_for(StreamFeed(url="file:log?topic=rows", rows=f"table:{tmp_path}/rows.npz"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "url must be given"),
        ({"url": "memory:x?topic=rows"}, "must outlive its process"),
        ({"url": "file:x?topic=rows&partitions=0,1"}, "fills one partition"),
        ({"url": "file:x"}, "must name its topic"),
        ({"url": "file:x?topic=rows", "rows_per_second": 0.0}, "rows_per_second must"),
    ],
)
def test_a_feed_that_cannot_be_is_refused(settings, words):
    with pytest.raises(SettingsError, match=words):
        load(StreamFeed, explicit=settings)


def test_a_label_that_is_no_column_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="label must be a column"):
        feeder_for(StreamFeed(url=f"file:{tmp_path}?topic=rows", label="colour"))


def test_the_documented_defaults_are_the_defaults():
    documented = load(StreamFeed, file=bundle() / "streams" / "stream.toml")

    assert documented == StreamFeed(url=documented.url)


@pytest.mark.parametrize("codec", ["packed", "sample", "json"])
def test_every_codec_holds_the_same_rows(codec, tmp_path):
    np.savez(tmp_path / "rows.npz", image=np.zeros((9, 64), np.uint8), label=np.arange(9, dtype=np.uint8))
    rows = {"rows": f"table:{tmp_path}/rows.npz", "rows_per_record": 2, "order": "once"}

    labels = fed(url=f"file:{tmp_path}/log?topic=rows", codec=codec, **rows)

    assert labels.tolist() == list(range(9))
    reader = open_log(f"file:{tmp_path}/log?topic=rows").reader("rows", [0])
    assert list(reader.end_offsets().values()) == [5 if codec == "packed" else 9]
    assert {record.headers["fmb-codec"] for record in reader.poll(0.0)} == {codec.encode()}


def test_the_url_may_name_the_codec(tmp_path):
    feeder_for(StreamFeed(url=f"file:{tmp_path}?topic=rows&codecs=json", records=1)).run(STOP)

    (record,) = open_log(f"file:{tmp_path}?topic=rows").reader("rows", [0]).poll(0.0)
    assert set(json.loads(bytes(record.value))) == {"image", "label"}


def test_a_table_sent_once_goes_on_where_it_was_stopped_and_ends(tmp_path):
    np.savez(tmp_path / "rows.npz", image=np.zeros((9, 64), np.uint8), label=np.arange(9, dtype=np.uint8))
    once = {"url": f"file:{tmp_path}/log?topic=rows", "rows": f"table:{tmp_path}/rows.npz", "order": "once"}

    fed(**once, rows_per_record=2, records=3)
    fed(**once, rows_per_record=2)
    labels = fed(**once, rows_per_record=2)

    assert labels.tolist() == list(range(9))


def test_rows_of_a_task_without_labels_are_drawn_evenly(tmp_path, own):
    lines = ["from fedmb.tasks.digits import Digits", "class Plain(Digits):", "    label = None"]
    (own / "plain_task.py").write_text("\n".join(lines))
    np.savez(tmp_path / "rows.npz", image=np.zeros((9, 64), np.uint8), label=np.arange(9, dtype=np.uint8))
    settings = {"task": "plain_task:Plain", "rows": f"table:{tmp_path}/rows.npz", "records": 40}

    once = fed(url=f"file:{tmp_path}/once?topic=rows", **settings)
    fed(url=f"file:{tmp_path}/twice?topic=rows", **{**settings, "records": 7})
    twice = fed(url=f"file:{tmp_path}/twice?topic=rows", **settings)

    assert np.array_equal(once, twice)
    assert set(once) == set(range(9))


def test_a_function_of_the_records_number_may_make_the_rows(own):
    labels = fed(url="file:log?topic=rows", rows="rows_of_mine:numbered", records=3)

    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert fed(url="file:single?topic=rows", rows="rows_of_mine:one", records=3, codec="json").tolist() == [0, 1, 2]


@pytest.mark.parametrize(("codec", "stops"), [("packed", 2), ("sample", 3)])
def test_a_generator_goes_on_where_it_was_stopped_and_ends_when_it_does(codec, stops, own):
    settings = {"url": "file:log?topic=rows", "rows": "rows_of_mine:few", "codec": codec}

    fed(**settings, records=stops)
    labels = fed(**settings)

    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert fed(**settings).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"rows": "rows_of_mine:none"}, SettingsError, "must be importable"),
        ({"rows": "nowhere:rows"}, SettingsError, "must be importable"),
        ({"rows": "rows_of_mine:np"}, SettingsError, "must be a function"),
        ({"rows": "rows_of_mine:wrong"}, ShapeError, "must give columns of the task's schema, item 0"),
        ({"rows": "rows_of_mine:text"}, ShapeError, "must give columns of the task's schema, item 0"),
        ({"rows": "rows_of_mine:numbered", "codec": "json"}, ShapeError, "must give 1 row for each record, got 2"),
        ({"rows": "rows_of_mine:numbered", "labels_after": [3]}, SettingsError, "a function decides itself"),
        ({"order": "once", "labels_after": [3]}, SettingsError, "rows in their order"),
    ],
)
def test_rows_that_cannot_be_sent_are_refused(settings, error, words, own):
    with pytest.raises(error, match=words):
        fed(url="file:log?topic=rows", records=1, **settings)
