import numpy as np
import pytest

from fedmb.batch.minibatch import check_columns
from fedmb.batch.rows import Rows
from fedmb.batch.table import TableSource
from fedmb.errors import AlreadyOwned, SettingsError, ShapeError
from fedmb.federation.client_source import Streaming, codecs, open_source, table_columns
from fedmb.federation.replaying import Replaying
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.stream_url import open_log
from fedmb.ledger import StreamPartition
from fedmb.replay.blend import Blend
from fedmb.replay.ring_source import RingSource
from fedmb.replay.stream_ring import StreamRing
from fedmb.tasks.brackets import Brackets
from fedmb.tasks.communities import Communities
from fedmb.tasks.digits import Digits

ROWS = Digits().train_rows()


def opened(url, state, share=0.5, task=None, client="a", rows=None):
    return open_source(
        url,
        task or Digits(),
        client=client,
        seed=0,
        state=state,
        streaming=Streaming(patience_seconds=0.01),
        replaying=Replaying(share=share, window=100),
        rows=Rows.model_validate(rows or {}),
    )


def log_with_rows(path, records=4):
    url = f"file://{path}/log?topic=rows"
    codec = codecs(Digits())[0]
    writer = open_log(url).writer("rows", 0)
    for record in range(records):
        part = {name: array[8 * record : 8 * record + 8] for name, array in ROWS.items()}
        writer.append(codec.encode(part), codec_headers(codec))
    writer.close()
    return url


def test_a_table_url_opens_a_file(tmp_path):
    np.savez(tmp_path / "ward 7.npz", **ROWS)
    source = opened(f"table:{tmp_path}/ward%207.npz", tmp_path).source

    assert isinstance(source, TableSource)
    assert source.examples_per_epoch == len(ROWS["label"])


def test_shares_of_a_task_split_its_rows_without_overlap():
    parts = [table_columns(f"table:task?share={share}&of=3", Digits(), seed=0) for share in range(3)]

    assert sum(len(part["label"]) for part in parts) == len(ROWS["label"])
    mixes = [np.bincount(part["label"], minlength=10).tolist() for part in parts]
    assert np.ptp(mixes, axis=0).max() > 50  # skewed: an even split of a class would differ by one


def test_a_stream_url_opens_a_log_with_replay(tmp_path):
    found = opened(log_with_rows(tmp_path), tmp_path)
    batch = found.source.take(16)

    assert isinstance(found.source, Blend)
    assert isinstance(found.stream, LogSource)
    assert batch.origins == {"stream": 16}
    assert (tmp_path / "replay.ring").exists()
    found.source.close()


def filled_ring(path, rows=32):
    partition = StreamPartition("site", "rows", 0)
    ring = StreamRing(path, Digits.schema, [partition], max_rows=100)
    part = {name: array[:rows] for name, array in ROWS.items()}
    ring.append(part, *np.array([(0, row, 0, 0) for row in range(rows)]).T)
    return ring


def test_a_ring_url_opens_a_daemons_ring_with_replay(tmp_path):
    ring = filled_ring(tmp_path / "site a.ring")
    found = opened(f"ring:{tmp_path}/site%20a.ring", tmp_path)

    first, second = found.source.take(16), found.source.take(16)

    assert isinstance(found.stream, RingSource)
    assert (first.origins, second.origins) == ({"stream": 16}, {"stream": 8, "replay": 8})
    found.source.seek(found.source.position())
    assert ring.room() == 100 - 8
    found.source.close()
    ring.close()


def test_a_ring_may_be_filled_later(tmp_path):
    found = opened(f"ring:{tmp_path}/later.ring", tmp_path, share=0.0)
    filled_ring(tmp_path / "later.ring").close()

    assert len(found.source.take(32)) == 32
    found.source.close()


def test_a_client_whose_memory_is_in_use_leaves_the_daemons_ring_free(tmp_path):
    filled_ring(tmp_path / "rows.ring").close()
    first = opened(f"ring:{tmp_path}/rows.ring", tmp_path)
    (tmp_path / "rows.ring").rename(tmp_path / "moved.ring")

    for _ in range(2):
        with pytest.raises(AlreadyOwned, match=r"replay\.ring is in use"):
            opened(f"ring:{tmp_path}/moved.ring", tmp_path)
    first.source.close()


def test_without_replay_nothing_is_remembered_on_disk(tmp_path):
    found = opened(log_with_rows(tmp_path), tmp_path, share=0.0)

    assert found.source is found.stream
    assert not (tmp_path / "replay.ring").exists()
    found.source.close()


def test_a_poison_record_is_set_aside_and_learning_goes_on(tmp_path):
    url = log_with_rows(tmp_path, records=1)
    writer = open_log(url).writer("rows", 0)
    writer.append(b"\x80\x04\x95 not a record", {})
    writer.close()
    log_tail = open_log(url).writer("rows", 0)
    codec = codecs(Digits())[1]
    log_tail.append(codec.encode({name: array[:1] for name, array in ROWS.items()}), codec_headers(codec))
    log_tail.close()
    found = opened(url, tmp_path, share=0.0)
    batch = found.source.take(9)

    assert len(batch) == 9
    assert found.stream.statistics().rejected == 1
    letters = open_log(f"file://{tmp_path}/dead-letters?topic=rows.dlq").reader("rows.dlq", [0]).poll(1.0)
    assert [bytes(letter.value) for letter in letters] == [b"\x80\x04\x95 not a record"]
    found.source.close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("table:task?share=4&of=4", "0 <= share < of"),
        ("table:task?shard=1", "0 <= share < of"),
        ("table:task?share=one", "whole numbers"),
        ("ring:", "ring:/path"),
        ("ring://host/rows.ring", "ring:/path"),
        ("ring:/rows.ring?topic=rows", "ring:/path"),
        ("kafkaesque://x", "must be file:, memory: or kafka:"),
    ],
)
def test_a_url_that_breaks_a_rule_says_which(tmp_path, url, sentence):
    with pytest.raises(SettingsError, match=sentence):
        opened(url, tmp_path)


def test_rows_of_a_ring_are_not_made_ahead(tmp_path):
    with pytest.raises(SettingsError, match=r"rows\.prefetch to 0"):
        opened(f"ring:{tmp_path}/ring", tmp_path, rows={"prefetch": 2})


def test_a_table_of_another_task_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", image=np.zeros((3, 5), np.uint8), label=np.zeros(3, np.uint8))

    with pytest.raises(ShapeError, match="image"):
        opened(f"table:{tmp_path}/other.npz", tmp_path)


def test_several_tables_of_one_client_are_mixed(tmp_path):
    for name, part in (("a", slice(0, 90)), ("b", slice(90, 100))):
        np.savez(tmp_path / f"{name}.npz", **{column: array[part] for column, array in ROWS.items()})
    source = opened(f"table:{tmp_path}/a.npz table:{tmp_path}/b.npz", tmp_path).source

    assert source.examples_per_epoch == 100
    assert len(source.take(20)) == 20


def test_a_stream_beside_a_table_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **ROWS)

    with pytest.raises(SettingsError, match="client of its own"):
        opened(f"table:{tmp_path}/a.npz file:{tmp_path}/log?topic=rows", tmp_path)


def test_a_dataset_url_opens_a_dataset(tmp_path):
    source = opened("dataset:fedmb.tasks.digits:ShiftedDigits?pixels=2", tmp_path).source
    batch = source.take(16)

    assert source.examples_per_epoch == 5 * len(ROWS["label"])
    assert check_columns(batch.columns, Digits.schema) == 16
    assert batch.origins == {"private": 16}


def test_a_file_of_padded_rows_is_cut_by_length(tmp_path):
    np.savez(tmp_path / "rows.npz", **Brackets().train_rows())
    url = f"table:{tmp_path}/rows.npz"
    wide = opened(url, tmp_path, task=Brackets()).source.take(32)
    batch = opened(url, tmp_path, task=Brackets(), rows={"buckets": {}}).source.take(32)

    assert wide.columns["symbols"].shape == (32, 40)
    assert batch.columns["symbols"].shape[1] == batch.units.max() < 40


def test_a_share_of_a_network_comes_with_the_neighbours_it_has(tmp_path):
    url = "table:task?share=1&of=3&alpha=100"
    source = opened(url, tmp_path, task=Communities(), rows={"graph": {"fan_outs": [5, 5]}}).source
    columns = source.take(8).columns

    assert source.examples_per_epoch == pytest.approx(2000 / 3, abs=1)
    assert columns["x_2"].shape == (8, 5, 5, 16)
    assert columns["hop_1_mask"].any()


@pytest.mark.parametrize("setting", ["buckets", "graph"])
def test_what_cuts_a_table_is_refused_on_a_stream_before_anything_is_opened(tmp_path, setting):
    with pytest.raises(SettingsError, match=f"rows.{setting} needs its rows in a table, got a stream"):
        opened(f"file:{tmp_path}/log?topic=rows", tmp_path, rows={setting: {}})
    assert not any(tmp_path.iterdir())
