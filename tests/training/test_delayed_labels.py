"""What the model said when it was asked is scored, and the same bits come out wherever the client was stopped."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, SettingsError, ShapeError, Unreachable
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.known_rows import KnownRows
from fedmb.ingest.log_source import LogSource
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.training.delayed_labels import DelayedLabels
from fedmb.training.drift import Scoring
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

CPU = torch.device("cpu")
ASKED = {"id": Column("int64"), "x": Column("float32", (2,))}
ANSWERED = {"id": Column("int64"), "y": Column("float32")}
NUM_ROWS = 600


class Line:
    schema = {"x": Column("float32", (2,)), "y": Column("float32")}

    def build_model(self):
        return nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1), nn.Dropout(0.5))

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {"distance": (outputs - rows["y"]).abs()}


class Constant(Line):
    """Says what the one parameter is, whatever it is asked."""

    def build_model(self):
        return nn.Linear(1, 1, bias=False)

    def forward(self, model, rows):
        return model.weight[0] * torch.ones(len(rows["x"]))


class Peeking(Line):
    def forward(self, model, rows):
        return model(rows["x"])[:, 0] * (1 + rows["y"])


class Paired(Line):
    def forward(self, model, rows):
        return {"y": model(rows["x"])}


def filled(log, topic, columns, rows):
    """A log source over a topic of these rows, three to a record."""
    codec, writer = PackedCodec(columns), log.writer(topic, 0)
    for start in range(0, len(rows["id"]), 3):
        part = {name: array[start : start + 3] for name, array in rows.items()}
        writer.append(codec.encode(part), codec_headers(codec))
    writer.close()


def streams(late=20, seed=0):
    """Two topics: questions 0.., and answers that come in another order, up to `late` behind."""
    random = np.random.default_rng(seed)
    numbers = np.arange(NUM_ROWS)
    x = random.standard_normal((NUM_ROWS, 2)).astype(np.float32)
    order = np.argsort(numbers + random.integers(0, late, NUM_ROWS), kind="stable")
    order = order[order % 9 != 4]  # some are never answered
    log = MemoryLog("k")
    filled(log, "asked", ASKED, {"id": numbers, "x": x})
    filled(log, "answered", ANSWERED, {"id": order, "y": (x[:, 0] - 2 * x[:, 1])[order]})
    return log


def opened(log, task=None):
    def source(topic, columns):
        return LogSource(log.reader(topic, [0]), [PackedCodec(columns)], patience_seconds=0.0)

    questions = KnownRows(source("asked", ASKED), patience_seconds=1.0)
    return DelayedLabels(task or Line(), questions, source("answered", ANSWERED), key="id", horizon_rows=100)


def scored(log, task=None, window=10_000):
    """Late labels, and the model whose predictions they score."""
    task = task or Line()
    torch.manual_seed(0)
    source, model = opened(log, task), task.build_model()
    source.score_with(model, Scoring(window=window), CPU)
    return source, model


def test_what_the_model_said_when_asked_is_scored():
    source, model = scored(streams(), Constant())
    with torch.no_grad():
        model.weight.fill_(0.0)
    first = source.take(1)  # reads 64 questions
    with torch.no_grad():
        model.weight.fill_(1e6)
    rows = [first, *(source.take(1) for _ in range(39))]
    sums = source.sums()

    assert sums["delayed_prequential_units"] == 40
    assert sums["delayed_prequential_loss"] == pytest.approx(sum(float(row.columns["y"][0] ** 2) for row in rows))


def test_rows_have_the_tasks_columns_and_the_spans_of_both_streams():
    source, _ = scored(streams())
    batch = source.take(8)

    assert dict(source.schema) == Line.schema
    assert list(batch.columns) == list(Line.schema)
    assert sorted(map(str, batch.span)) == ["k/answered[0]", "k/asked[0]"]
    assert sum(source.lag().values()) == -(-533 // 3) - 2  # answers alone: 8 rows are 3 records, the last in part


def test_predicting_leaves_the_model_as_it_was():
    source, model = scored(streams())
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    source.take(100)

    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def rounds(client_of, count, *, each=1):
    """`count` rounds over a client, or over one that `client_of` makes anew every `each` rounds: state, and sums."""
    arrays, position, sums = initial_arrays(Line(), seed=0), {}, []
    for number in range(count):
        if number % each == 0:
            client = client_of()
        update = client.run(arrays, base_version=number, position=json.loads(json.dumps(position)))
        arrays, position = update.arrays, update.positions["meter"]
        sums.append({name: value for name, value in update.sums.items() if "seconds" not in name})
    return arrays, position, sums


def client_on(log, window=2048):
    labels = opened(log)
    training = Training.plain(batch_size=12, steps=5, prequential=Scoring(window=window))
    return LocalUpdate(Line(), labels, training, client="meter", seed=0, stream=labels, labels=labels)


def assert_same(one, other):
    assert one[1:] == other[1:]
    assert all(np.array_equal(one[0][name], other[0][name]) for name in one[0])


def test_a_client_made_anew_for_each_round_learns_and_scores_the_same_bits():
    log = streams()

    assert_same(rounds(lambda: client_on(log), 8), rounds(lambda: client_on(log), 8, each=8))


def test_a_client_that_is_sent_back_scores_the_same_predictions():
    log = streams()
    whole = rounds(lambda: client_on(log), 4, each=4)
    again = client_on(log)
    rounds(lambda: again, 2, each=2)  # nobody stored what came of these

    assert_same(rounds(lambda: again, 4, each=4), whole)


def test_the_score_changes_nothing_that_is_learnt():
    log = streams()
    with_score, without = rounds(lambda: client_on(log), 4), rounds(lambda: client_on(log, window=0), 4)

    assert all(np.array_equal(with_score[0][name], without[0][name]) for name in with_score[0])
    assert with_score[1]["source"]["join"] == without[1]["source"]["join"]
    assert "delayed_prequential_loss" in with_score[2][-1]
    assert "delayed_prequential_loss" not in without[2][-1]
    assert without[2][-1]["labels_waiting"] > 0


def test_memory_is_bounded_by_the_horizon():
    log = MemoryLog("k")
    numbers = np.arange(3000)
    filled(log, "asked", ASKED, {"id": numbers, "x": np.zeros((3000, 2), np.float32)})
    answered = np.concatenate([[0, 95], np.arange(10_000, 10_500), np.arange(90, 600, 7)])
    filled(log, "answered", ANSWERED, {"id": answered, "y": np.zeros(len(answered), np.float32)})
    source, _ = scored(log)
    most = 0
    try:
        while True:
            source.take(1)
            most = max(most, len(source._score), source.statistics().waiting)
    except NotEnoughData:
        counts = source.sums()

    assert 90 < most <= 200
    assert counts["labels_orphaned"] >= 500
    assert counts["labels_expired"] > 0


def test_questions_that_cannot_be_read_make_no_answer_an_orphan():
    log = streams()
    source, _ = scored(log)

    def away(size):
        raise Unreachable("nobody answers")

    source.take(2)
    found, source._questions.take = source._questions.take, away
    with pytest.raises(NotEnoughData, match="questions must be readable to be answered: nobody answers"):
        source.take(200)
    source._questions.take = found
    while True:
        try:
            source.take(50)
        except NotEnoughData:
            break

    assert source.statistics().orphans == 0


def test_a_task_that_needs_the_answer_to_predict_is_refused():
    source, _ = scored(streams(), Peeking())

    with pytest.raises(SettingsError, match=r"whose forward does without the answer, got one that reads 'y' from"):
        source.take(1)


def test_outputs_that_are_no_tensor_are_refused():
    source, _ = scored(streams(), Paired())

    with pytest.raises(ShapeError, match=r"one tensor \(64, …\), got dict"):
        source.take(1)


def test_positions_of_others_are_refused_and_a_score_may_begin_later():
    source, _ = scored(streams())
    silent, _ = scored(streams(), window=0)
    silent.take(3)
    source.seek(json.loads(json.dumps(silent.position())))
    source.take(200)

    assert 0 < source.sums()["delayed_prequential_units"] < 200
    assert source.examples_per_epoch == math.inf
    with pytest.raises(ValueError, match="a position of late labels must hold"):
        source.seek({"ledger": {}})
