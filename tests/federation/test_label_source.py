"""Labels on a stream of their own: opened by name, and what contradicts them refused before anything is learnt."""

import numpy as np
import pytest
from pydantic import ValidationError

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError, ShapeError
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.client_source import open_source
from fedmb.federation.label_source import Labels
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.codec_choice import CodecChoice
from fedmb.ingest.dead_letter import SUFFIX
from fedmb.ingest.stream_url import open_log
from fedmb.replay.blend import Blend
from fedmb.settings import load
from fedmb.tasks.digits import Digits
from fedmb.training.delayed_labels import DelayedLabels

ROWS = Digits().train_rows()
KEYED = Labels(source="file:answers?topic=answered", key="id")


class Unlabelled:
    schema = {"x": Column("float32"), "y": Column("float32")}


def fill(url, schema, columns):
    name = url.partition("topic=")[2].partition("&")[0]
    partition = int(url.partition("partition=")[2] or 0)
    codec, writer = CodecChoice().for_schema(schema)[0], open_log(url.partition("&")[0]).writer(name, partition)
    writer.append(codec.encode(columns), codec_headers(codec))
    writer.close()


def streams(folder, late=3):
    """A log with 40 questions and their answers, in another order."""
    asked, answered = (f"file:{folder}/log?topic={topic}" for topic in ("asked", "answered"))
    labels = Labels(source=answered, key="id")
    schemas = labels.schemas(Digits())
    keys, order = np.arange(40), np.arange(40)[::-1].reshape(-1, late + 1)[::-1].ravel()
    fill(asked, schemas[0], {"id": keys, "image": ROWS["image"][:40]})
    fill(answered, schemas[1], {"id": order, "label": ROWS["label"][order]})
    return asked, labels, order


def opened(url, labels, state, *, share=0.0, task=None, rows=None):
    tables = {
        "streaming": {"patience_seconds": 0.01, "linger_seconds": 0.0},
        "replay": {"share": share, "window": 100},
        "rows": rows or {},
    }
    settings = ClientSettings.model_validate({"name": "a", "source": url, **tables})
    return open_source(
        url,
        task or Digits(),
        client=settings.name,
        seed=0,
        state=state,
        streaming=settings.streaming,
        replaying=settings.replay,
        rows=settings.rows,
        labels=labels,
    )


def test_questions_and_answers_are_joined_in_the_order_of_the_answers(tmp_path):
    url, labels, order = streams(tmp_path)
    found = opened(url, labels, tmp_path)
    batch = found.source.take(40)

    assert found.source is found.stream is found.labels
    assert np.array_equal(batch.columns["image"], ROWS["image"][order])
    assert np.array_equal(batch.columns["label"], ROWS["label"][order])
    found.source.close()


def test_answered_rows_are_blended_with_replayed_ones(tmp_path):
    url, labels, _ = streams(tmp_path)
    found = opened(url, labels, tmp_path, share=0.5)
    found.source.take(16)

    assert isinstance(found.source, Blend)
    assert isinstance(found.stream, DelayedLabels)
    assert found.source.take(16).origins == {"stream": 8, "replay": 8}
    found.source.close()


def test_what_cannot_be_read_of_either_stream_is_set_aside_beside_its_own(tmp_path):
    url, labels, _ = streams(tmp_path)
    for one in (url, labels.source):
        writer = open_log(one).writer(one.partition("topic=")[2], 0)
        writer.append(b"no record", {})
        writer.close()
    found = opened(url, labels, tmp_path / "state")
    while sum(found.stream.lag().values()):
        found.source.take(100)
    found.source.close()

    for place, topic in (("state", "asked"), ("state/labels", "answered")):
        letters = open_log(f"file:{tmp_path}/{place}/dead-letters?topic={topic}{SUFFIX}").reader(topic + SUFFIX, [0])
        assert [bytes(letter.value) for letter in letters.poll(1.0)] == [b"no record"]


def test_a_key_among_the_tasks_columns_is_learnt_and_others_are_not(tmp_path):
    labels = Labels(source="file:x?topic=y", key="label", columns=("image",), key_dtype="uint64")

    asked, answered = Labels(source="file:x?topic=y", key="id", key_dtype="uint64").schemas(Digits())
    assert (asked, answered) == (
        {"id": Column("uint64"), "image": Column("uint8", (64,))},
        {"id": Column("uint64"), "label": Column("uint8")},
    )
    with pytest.raises(SettingsError, match=r"questions must bring 1 column or more beside their key, got none"):
        labels.schemas(Digits())


def test_settings_of_a_client_say_it_in_a_table_of_their_own():
    explicit = {"name": "a", "source": "file:log?topic=asked"}
    overrides = ["labels.source=file:log?topic=answered", "labels.key=id", 'labels.columns=["label"]']
    settings = load(ClientSettings, explicit=explicit, overrides=overrides, environ={"FEDMB_LABELS__HORIZON_ROWS": "9"})

    assert settings.labels == Labels(source="file:log?topic=answered", key="id", columns=("label",), horizon_rows=9)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"key": "id"}, "answers need a stream, got a key or columns alone; set labels.source"),
        ({"columns": ("label",)}, "answers need a stream"),
        ({"source": "file:x?topic=y"}, "answers find their questions by a key, got none; set labels.key"),
        ({"source": "file:x?topic=y", "key": "label", "columns": ("label",)}, "got 'label' in columns too"),
    ],
)
def test_half_a_description_is_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Labels(**fields)


@pytest.mark.parametrize(
    ("url", "labels", "rows", "sentence"),
    [
        ("table:task", KEYED, {}, "must be read from a log, got 'table:task'"),
        ("ring:/x.ring", KEYED, {}, "must be read from a log, got 'ring:/x.ring'"),
        ("asked", Labels(source="ring:/x.ring", key="id"), {}, "must be read from a log, got 'ring:/x.ring'"),
        ("asked", KEYED, {"prefetch": 2}, r"not made ahead, got rows\.prefetch = 2"),
        ("asked", Labels(source="asked", key="id"), {}, "from another stream than questions, got .*asked"),
        ("asked&partitions=0,1", KEYED, {}, r"must come from one partition, .* got .*asked\[0\], .*asked\[1\]"),
        ("asked", KEYED.model_copy(update={"columns": ("labels",)}), {}, "got 'labels'; did you mean label?"),
    ],
)
def test_contradictions_are_refused_with_a_way_out(url, labels, rows, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    streams(tmp_path)
    url, source = (one.replace("asked", "file:log?topic=asked") for one in (url, labels.source))

    with pytest.raises(SettingsError, match=sentence):
        opened(url, labels.model_copy(update={"source": source}), tmp_path, rows=rows)


def test_a_task_without_a_label_must_name_what_comes_later():
    with pytest.raises(SettingsError, match=r"Unlabelled names no label; name some of \['x', 'y'\]"):
        KEYED.schemas(Unlabelled())


def test_a_key_that_is_no_whole_number_is_refused(tmp_path):
    class Fractions(Unlabelled):
        schema = {**Unlabelled.schema, "id": Column("float32")}

    labels = Labels(source=f"file:{tmp_path}/log?topic=answered", key="id", columns=("y",))
    with pytest.raises(ShapeError, match="must both have the key 'id' of integers"):
        opened(f"file:{tmp_path}/log?topic=asked", labels, tmp_path, task=Fractions())
