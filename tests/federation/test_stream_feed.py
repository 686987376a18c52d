"""A fed stream holds rows of its table, continues where it ends, and drifts where it is told to."""

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
    labels = source.take(10**6).columns["label"]
    source.close()
    return labels


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
