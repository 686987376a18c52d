import numpy as np
import pytest
from replay_service import SCHEMA, is_whole, numbered

from fedmb.errors import DecodeError
from fedmb.replay.sample import Sample
from fedmb.replay.wire_batch import BatchForm
from fedmb.replay.wire_format import Kind, frames

ROWS = 5


def sample(*, weighted, probable, rows=ROWS):
    weights = np.linspace(0, 1, rows, dtype=np.float32) if weighted else None
    probabilities = np.linspace(1, 2, rows) if probable else None
    return Sample(numbered(3, rows), np.arange(3, 3 + rows), weights, probabilities)


def same(one, other):
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("ids", "weights", "probabilities")]
    return is_whole(one.columns) and all((a is b) if b is None else (a == b).all() for a, b in pairs)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("probable", [False, True])
def test_batches_come_back_from_one_message(weighted, probable):
    form = BatchForm(SCHEMA)
    given = [sample(weighted=weighted, probable=probable, rows=rows) for rows in (1, 5, 8)]

    message = bytearray(b"".join(bytes(part) for one in given for part in form.framed(one, 77)))
    found = [(one, form.sample(one.payload, 0, one.rows, one.flags)[0]) for one in frames(message)]

    assert [one.kind for one, _ in found] == [Kind.BATCH] * 3
    assert found[0][0].extra == 77
    assert all(same(one, other) for (_, one), other in zip(found, given, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_comes_back_from_a_slot(weighted):
    form, memory = BatchForm(SCHEMA), bytearray(4096)
    given = sample(weighted=weighted, probable=True)

    head = form.put(given, memory, 1024, table_rows=9, slot=3)
    one = next(frames(head))
    found, block = form.sample(memory, 1024, one.rows, one.flags)

    assert (one.sequence, one.extra) == (3, 9)
    assert same(found, given)
    assert found.columns["x"].base is block, "which holds the slot"


def test_a_batch_that_does_not_fit_is_refused():
    form = BatchForm(SCHEMA)

    with pytest.raises(DecodeError, match="5 rows must have"):
        form.sample(bytearray(100), 0, ROWS, 0)
