import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from fedmb.aggregation.compress import Wire
from fedmb.arrays.bfloat16 import rounded, widened
from fedmb.arrays.flat import FlatArrays
from fedmb.errors import ShapeError
from fedmb.federation.reply_record import arrays_of_reply, reply_record
from fedmb.federation.residual import Residual
from fedmb.update import Update

MODEL = {
    "w": np.zeros(600, np.float32),
    "d": np.zeros(5),
    "h": np.zeros(4, np.float16),
    "b": rounded(np.zeros(8)),
    "seen": np.array(7),
    "mask": np.array([True, False]),
}
WIRES = {
    "none": Wire(),
    "bf16": Wire(compression="bf16"),
    "int8": Wire(compression="int8"),
    "top": Wire(compression="top", top_share=1.0),
}
EVERY = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES.keys())
COMPRESSED = pytest.mark.parametrize(
    "wire", [WIRES[name] for name in ("bf16", "int8", "top")], ids=("bf16", "int8", "top")
)


def trained():
    random = np.random.default_rng(0)
    return {
        "w": random.standard_normal(600).astype(np.float32),
        "d": random.standard_normal(5),
        "h": random.standard_normal(4).astype(np.float16),
        "b": rounded(random.standard_normal(8)),
        "seen": np.array(1 << 60),
        "mask": np.array([False, False]),
    }


def sent(wire, weight=1.0, residual=None, position=None):
    update = Update(trained(), weight, 4, {"a": {}})
    record, layout, form, added = reply_record(
        update, MODEL, wire, client="a", seed=0, residual=residual or Residual(), position=position or {}
    )
    assert layout == FlatArrays.packed(MODEL).layout
    return record, form, added


@EVERY
def test_a_model_of_every_dtype_comes_back(wire):
    record, form, _ = sent(wire)
    back = arrays_of_reply(record, form, FlatArrays.packed(MODEL), wire)

    for name, array in trained().items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert np.allclose(widened(back[name]), widened(array), atol=0.02)
    assert back["seen"] == 1 << 60
    assert back["mask"].tolist() == [False, False]


@EVERY
def test_nothing_learnt_is_nothing_sent_and_what_is_left_stays(wire):
    record, form, added = sent(wire, weight=0.0, position={"residual": 3, "source": {}})

    assert (len(record), form, added) == (0, "none", {"residual": 3})
    reference = FlatArrays.packed(MODEL)
    assert arrays_of_reply(record, form, reference, wire) is reference
    with pytest.raises(ShapeError):
        arrays_of_reply(ArrayRecord([np.zeros(1)]), "none", reference, wire)


@COMPRESSED
def test_a_reply_in_another_form_than_was_asked_for_is_refused(wire):
    reference = FlatArrays.packed(MODEL)
    record, form, _ = sent(wire)

    for asked in (one for one in WIRES.values() if one != wire):
        with pytest.raises(ShapeError, match="as it was asked"):
            arrays_of_reply(record, form, reference, asked)
    for claimed in ("whole", "zip", ""):
        with pytest.raises(ShapeError):
            arrays_of_reply(record, claimed, reference, wire)


@EVERY
def test_entries_that_are_missing_unknown_or_of_another_kind_are_refused(wire):
    reference = FlatArrays.packed(MODEL)
    record, form, _ = sent(wire)
    names = list(record)
    for name in names:
        for wrong in (
            None,
            Array(np.zeros(3)),
            Array(np.zeros((2, 2), np.int8)),
            Array("x", (1,), "numpy.ndarray", b""),
        ):
            broken = record.copy()
            broken.pop(name) if wrong is None else broken.update({name: wrong})
            with pytest.raises(ShapeError):
                arrays_of_reply(broken, form, reference, wire)
    for more in ("more", "change.more", "../w", "float32x"):
        broken = record.copy()
        broken[more] = Array(np.zeros(1))
        with pytest.raises(ShapeError):
            arrays_of_reply(broken, form, reference, wire)
    broken = record.copy()
    broken.update({f"change.{at}": Array(np.zeros(1)) for at in range(1000)})
    with pytest.raises(ShapeError):
        arrays_of_reply(broken, form, reference, wire)


def test_what_was_left_is_sent_with_the_next_change(tmp_path):
    wire = Wire(compression="top", top_share=0.5)
    residual, reference = Residual(tmp_path), FlatArrays.packed(MODEL)
    record, form, added = sent(wire, residual=residual)
    first = arrays_of_reply(record, form, reference, wire)
    record, form, _ = sent(wire, residual=residual, position=added)
    second = arrays_of_reply(record, form, reference, wire)

    assert added == {"residual": 5}
    assert 0 < np.count_nonzero(first["w"]) < 600
    assert np.abs(first["w"] + second["w"] - 2 * trained()["w"]).max() < np.abs(trained()["w"]).max()
    again, _, _ = sent(wire, residual=residual, position={})
    assert all(np.array_equal(array.numpy(), again[name].numpy()) for name, array in sent(wire)[0].items())
