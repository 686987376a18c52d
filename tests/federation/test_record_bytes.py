import json
import math
import struct
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import DecodeError
from fedmb.federation.record_bytes import from_bytes, to_bytes

CONTENT = RecordDict(
    {
        "arrays": ArrayRecord(
            {
                "weight": Array(np.arange(6, dtype=np.float32).reshape(2, 3)),
                "count": Array(np.array(7)),
                "flat": Array(dtype="bfloat16", shape=(2,), stype="fedmb.flat", data=b"\x01\x02\x03\x04"),
                "none": Array(np.zeros((0, 3), np.float64)),
            }
        ),
        "metrics": MetricRecord({"loss": 0.1, "whole": 3, "inf": math.inf, "several": [1.5, 2.0]}),
        "config": ConfigRecord(
            {"text": 'ward "7"\n', "yes": True, "one": 1, "raw": b"\x00\xff", "raws": [b"", b"ab"], "none": []}
        ),
        "empty": ConfigRecord({}),
    }
)


def test_records_come_back_as_they_were():
    found = from_bytes(b"".join(to_bytes(CONTENT)))

    assert found == CONTENT
    assert list(found) == list(CONTENT)
    assert type(found["metrics"]["whole"]) is int
    assert found["config"]["yes"] is True
    assert found["arrays"]["flat"].stype == "fedmb.flat"


def test_numbers_keep_every_bit():
    record = MetricRecord({"a": 0.1 + 0.2, "b": 5e-324, "c": -0.0})

    found = from_bytes(b"".join(to_bytes(RecordDict({"m": record}))))["m"]

    assert [struct.pack("<d", found[name]) for name in found] == [struct.pack("<d", record[name]) for name in record]


@given(st.data())
def test_bytes_that_were_cut_or_changed_are_refused_or_read_but_never_worse(data):
    whole = b"".join(to_bytes(CONTENT))
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        assert isinstance(from_bytes(bytes(broken)), RecordDict)


@pytest.mark.parametrize(
    "head", [[["a", "config", [["k", {"bytes": 5}]]]], [["a", "pickle", []]], {}, [1], [[1, 2, 3]]]
)
def test_a_head_that_does_not_fit_is_refused(head):
    text = json.dumps(head).encode()

    with pytest.raises(DecodeError):
        from_bytes(struct.pack("<I", len(text)) + text + b"abc")
