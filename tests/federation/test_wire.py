import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.aggregation.compress import Wire
from fedmb.arrays.flat import FlatArrays
from fedmb.errors import FedmbError, ShapeError, VersionMismatch
from fedmb.federation.model_record import arrays_from_record, arrays_to_record, flat_to_record
from fedmb.federation.record_names import CONFIG, UPDATE
from fedmb.federation.wire import bytes_in, read_instruction, read_update, train_config, update_to_record
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


FLAT = {"fedmb-layout": FlatArrays.packed(MODEL).layout.text, "fedmb-wire": Wire().model_dump_json()}


def asked(**changes):
    """An instruction in the flat form of our rounds."""
    config = ConfigRecord({**train_config(4, {"a": {"cursor": 2}}), **FLAT, **changes})
    return message(RecordDict({"arrays": flat_to_record(MODEL)[0], CONFIG: config}))


def answered(wire="none", **changes):
    """A reply to such an instruction."""
    instruction = read_instruction(asked(**{"fedmb-wire": Wire(compression=wire).model_dump_json()}))
    content = update_to_record(update(), "a", instruction)
    content.config_records[UPDATE].update(changes)
    return message(content)


@pytest.mark.parametrize("wire", ["none", "bf16", "int8", "top"])
def test_a_flat_instruction_and_its_reply_make_the_round_trip(wire):
    instruction = read_instruction(asked())
    back = read_update(answered(wire), MODEL, Wire(compression=wire))

    assert instruction.wire == Wire()
    assert all(np.array_equal(instruction.arrays[name], array) for name, array in MODEL.items())
    assert all(np.array_equal(back.arrays[name], array) for name, array in MODEL.items())
    assert all(back.arrays[name].dtype == array.dtype for name, array in MODEL.items())
    assert back.positions == {"a": {"cursor": 5, **({"residual": 5} if wire in ("int8", "top") else {})}}


def test_a_client_that_is_asked_by_array_answers_by_array():
    by_array = message(RecordDict({"arrays": arrays_to_record(MODEL), CONFIG: train_config(4, {})}))
    instruction = read_instruction(by_array)
    content = update_to_record(update(), "a", instruction)

    assert instruction.wire is None
    assert content["arrays"] == arrays_to_record(MODEL)
    assert np.array_equal(read_update(message(content), MODEL, Wire(compression="top")).arrays["w"], MODEL["w"])


@pytest.mark.parametrize(
    "changes",
    [
        {"fedmb-layout": '[["w","float32",[2,3]]]'},
        {"fedmb-layout": '[["seen","int64",[]],["w","float32",[3,2]]]'},
        {"fedmb-layout": '[["../seen","int64",[]],["w","float32",[2,3]]]'},
        {"fedmb-layout": "[" * 100_000},
        {"fedmb-layout": 7},
        {"fedmb-form": "zip"},
        {"fedmb-form": "none"},
        {"fedmb-form": 7},
    ],
    ids=["missing", "shape", "path", "nested", "number", "unknown", "empty", "number-form"],
)
def test_a_flat_reply_with_a_broken_field_is_refused(changes):
    with pytest.raises(ShapeError):
        read_update(answered(**changes), MODEL)


@pytest.mark.parametrize(
    "changes",
    [
        {"fedmb-layout": '[["w","float32",[2,3]]]'},
        {"fedmb-layout": '[["seen","int64",[]],["w","float32",[2000000,300000]]]'},
        {"fedmb-wire": '{"compression": "zip"}'},
        {"fedmb-wire": '{"block": -1}'},
        {"fedmb-wire": "["},
    ],
    ids=["missing", "oversize", "unknown", "block", "torn"],
)
def test_a_flat_instruction_with_a_broken_field_is_refused(changes):
    with pytest.raises(ShapeError):
        read_instruction(asked(**changes))


def test_a_million_keys_are_refused_without_being_read():
    record, one = flat_to_record(MODEL)[0], Array(np.zeros(1))
    record.__dict__["_data"].update({f"x{at}": one for at in range(1_000_000)})
    content = update_to_record(update(), "a")
    content["arrays"] = record

    with pytest.raises(ShapeError, match="names"):
        read_update(message(content), MODEL)


def test_a_number_that_is_not_finite_is_refused_in_every_compression():
    for wire in ("none", "bf16", "int8", "top"):
        instruction = read_instruction(asked(**{"fedmb-wire": Wire(compression=wire).model_dump_json()}))
        broken = replace(update(), arrays={**MODEL, "w": np.full((2, 3), np.nan, np.float32)})
        with np.errstate(invalid="ignore"), pytest.raises(ShapeError):  # int8 has no scale for it to begin with
            read_update(message(update_to_record(broken, "a", instruction)), MODEL, Wire(compression=wire))


def test_the_bytes_of_a_message_are_those_of_its_records():
    content = update_to_record(update(), "a")
    arrays = sum(len(array.data) + len(name) for name, array in content["arrays"].items())

    assert arrays < bytes_in(message(content)) < arrays + 1000


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
