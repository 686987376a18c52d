import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import FedmbError, ShapeError, VersionMismatch
from fedmb.federation.wire import (
    CONFIG,
    UPDATE,
    arrays_from_record,
    arrays_to_record,
    read_instruction,
    read_update,
    train_config,
    update_to_record,
)
from fedmb.ledger import Ledger, Position, Span, StreamPartition
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "seen": np.array(7, np.int64)}


@pytest.fixture(autouse=True)
def task_identity():
    InProcessGrid(lambda message, context: message, {2: {}})  # gives Flower's Message the identity that it demands


def message(content):
    return Message(content, dst_node_id=2, message_type="train")


def update():
    spans = {StreamPartition("site", "rows", 0): Span(Position(3), Position(9, 4))}
    sums = {"units": 8.0, "loss": 3.5}
    return Update(MODEL, 8.0, 4, {"a": {"cursor": 5}}, spans, sums, {"stream": 8})


def reply(**changes):
    content = update_to_record(update(), "a")
    about = content.config_records[UPDATE]
    for key, value in changes.items():
        about[key.replace("_", "-") if key.startswith("fedmb") else key] = value
    return message(content)


def test_arrays_keep_names_shapes_and_dtypes():
    back = arrays_from_record(arrays_to_record(MODEL))

    assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in MODEL.items())
    assert back["seen"].shape == ()


def test_an_update_makes_the_round_trip():
    back = read_update(reply(), MODEL)

    assert (back.weight, back.base_version, back.positions) == (8.0, 4, {"a": {"cursor": 5}})
    assert (back.spans, back.sums, back.rows) == (update().spans, update().sums, update().rows)
    assert np.array_equal(back.arrays["w"], MODEL["w"])


def test_an_instruction_makes_the_round_trip():
    ledger = Ledger.from_json({"c/t[0]": [3, 1]})
    config = train_config(6, {"a": {"epoch": 2}}, ledger=ledger)
    instruction = read_instruction(message(RecordDict({"arrays": arrays_to_record(MODEL), CONFIG: config})))

    assert (instruction.base_version, instruction.positions, instruction.ledger) == (6, {"a": {"epoch": 2}}, ledger)


def test_another_version_of_fedmb_is_named_on_both_sides():
    config = train_config(0, {})
    config["fedmb-version"] = "9.9.9"
    instruction = message(RecordDict({"arrays": arrays_to_record(MODEL), CONFIG: config}))

    with pytest.raises(VersionMismatch, match=r"9\.9\.9"):
        read_instruction(instruction)
    with pytest.raises(VersionMismatch, match=r"9\.9\.9"):
        read_update(reply(fedmb_version="9.9.9"), MODEL)


@pytest.mark.parametrize("missing", ["arrays", "metrics", "update"])
def test_a_reply_without_one_of_its_records_is_refused(missing):
    content = update_to_record(update(), "a")
    del content[missing]

    with pytest.raises(ShapeError, match="must carry the records"):
        read_update(message(content), MODEL)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client", 5),
        ("position", "[1"),
        ("position", "7"),
        ("spans", json.dumps({"x": 1})),
        ("spans", json.dumps({"a/b[0]": [[0, 0], [-1, 0]]})),
        ("rows", json.dumps({"stream": "many"})),
        ("fedmb_base_version", "four"),
    ],
)
def test_a_reply_with_a_broken_field_is_refused(key, value):
    with pytest.raises(ShapeError):
        read_update(reply(**{key: value}), MODEL)


def test_an_array_that_needs_unpickling_is_refused():
    hostile = Array("object", (1,), "numpy.ndarray", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', }")
    content = update_to_record(update(), "a")
    content["arrays"] = ArrayRecord({**arrays_to_record(MODEL), "w": hostile})

    with pytest.raises(ShapeError, match="readable npy"):
        read_update(message(content), MODEL)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 150))
def test_any_bytes_in_an_array_are_refused_or_read_but_never_crash(data, keep):
    whole = Array(MODEL["w"]).data
    content = update_to_record(update(), "a")
    content["arrays"] = ArrayRecord(
        {**arrays_to_record(MODEL), "w": Array("float32", (2, 3), "numpy.ndarray", whole[:keep] + data)}
    )
    try:
        back = read_update(message(content), MODEL)
    except FedmbError:
        return

    assert back.arrays["w"].shape == (2, 3)


def test_metrics_that_are_lists_are_refused():
    content = update_to_record(update(), "a")
    content["metrics"] = MetricRecord({"num-examples": [1.0]})

    with pytest.raises(ShapeError, match="num-examples must be a number"):
        read_update(message(content), MODEL)


def test_an_empty_message_is_refused():
    with pytest.raises(ShapeError):
        read_update(message(RecordDict({"config": ConfigRecord()})), MODEL)
