import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedmb.aggregation.compress import Wire, compression_of
from fedmb.errors import ShapeError

WIRES = [
    Wire(compression="bf16"),
    Wire(compression="int8"),
    Wire(compression="int8", block=7),
    Wire(compression="top"),
    Wire(compression="top", top_share=1.0),
]
NAMES = ["bf16", "int8", "int8-blocks-of-7", "top", "top-all"]
EVERY = pytest.mark.parametrize("wire", WIRES, ids=NAMES)
REMEMBERING = pytest.mark.parametrize("wire", WIRES[1:], ids=NAMES[1:])


def changes(size, rounds, seed=0):
    random = np.random.default_rng(seed)
    scale = 10.0 ** random.integers(-4, 2, size)
    return [(random.standard_normal(size) * scale).astype(np.float32) for _ in range(rounds)]


def test_none_is_no_scheme():
    assert compression_of(Wire()) is None


@EVERY
@settings(max_examples=40, deadline=None)
@given(size=st.integers(0, 700), seed=st.integers(0, 99))
def test_any_change_makes_the_round_trip_close_to_itself(wire, size, seed):
    scheme = compression_of(wire)
    (change,) = changes(size, 1, seed)
    kept = change.copy()
    parts, memory = scheme.encode(change, None, np.random.default_rng(seed))
    back = scheme.decode(parts, size)

    assert np.array_equal(change, kept)
    assert (back.dtype, back.shape) == (np.float32, (size,))
    assert (memory is not None) == scheme.has_memory
    assert all(part.ndim == 1 for part in parts.values())
    if wire.compression == "bf16":
        assert (np.abs(back - change) <= np.abs(change) * 2.0**-7).all()
    else:
        assert np.linalg.norm(change - back) <= np.linalg.norm(change)  # a contraction, which error feedback needs


@EVERY
def test_equal_inputs_give_equal_bits(wire):
    scheme = compression_of(wire)
    first, second = changes(300, 2)
    twice = [scheme.encode(first, second if scheme.has_memory else None, np.random.default_rng(5)) for _ in range(2)]

    assert all(np.array_equal(part, twice[1].parts[name]) for name, part in twice[0].parts.items())
    assert not scheme.has_memory or np.array_equal(twice[0].memory, twice[1].memory)


@REMEMBERING
def test_what_was_sent_and_what_is_left_sum_to_the_uncompressed_total(wire):
    scheme = compression_of(wire)
    memory, sent, total = None, np.zeros(500), np.zeros(500)
    for change in changes(500, 30):
        parts, memory = scheme.encode(change, memory, np.random.default_rng(0))
        sent += scheme.decode(parts, 500)
        total += change
        largest = np.abs(total).max()

        assert np.allclose(sent + memory, total, rtol=0, atol=1e-5 * largest)


@REMEMBERING
def test_a_change_that_stays_is_sent_in_full_in_the_end(wire):
    """Without memory the small numbers of a constant change would never be sent."""
    scheme = compression_of(wire)
    change = np.linspace(0.001, 1, 200, dtype=np.float32)
    memory, sent = None, np.zeros(200)
    for _ in range(400):
        parts, memory = scheme.encode(change, memory, np.random.default_rng(0))
        sent += scheme.decode(parts, 200)

    assert np.allclose(sent / 400, change, atol=0.06)


def test_bf16_is_right_on_average():
    scheme = compression_of(WIRES[0])
    change = np.full(200_000, 1.0 + 2.0**-9, np.float32)  # a quarter of the way between two neighbours
    back = scheme.decode(scheme.encode(change, None, np.random.default_rng(3)).parts, change.size)
    standard_error = 2.0**-7 * np.sqrt(0.25 * 0.75 / change.size)

    assert set(np.unique(back)) == {1.0, 1.0 + 2.0**-7}
    assert abs(back.mean(dtype=np.float64) - change[0]) < 5 * standard_error


@pytest.mark.parametrize(
    ("wire", "share"),
    [(WIRES[0], 0.5), (WIRES[1], 0.25 + 1 / 256), (WIRES[3], 0.1)],
    ids=["bf16", "int8", "top"],
)
def test_a_change_takes_the_bytes_that_the_guide_says(wire, share):
    parts = compression_of(wire).encode(np.ones(51_200, np.float32), None, np.random.default_rng(0)).parts

    assert sum(part.nbytes for part in parts.values()) == round(share * 4 * 51_200)


def spoilt(parts):
    """Every way in which one part may be wrong."""
    for name, part in parts.items():
        others = {key: value for key, value in parts.items() if key != name}
        yield others
        yield {**parts, "more": part}
        yield {**others, "../" + name: part}
        for wrong in (part[:-1], np.append(part, part[:1]), part.reshape(-1, 1), part.astype(np.float64), part[:0]):
            yield {**others, name: wrong}


@EVERY
def test_malformed_parts_are_refused(wire):
    scheme = compression_of(wire)
    parts = scheme.encode(changes(300, 1)[0], None, np.random.default_rng(0)).parts
    for broken in spoilt(parts):
        with pytest.raises(ShapeError):
            scheme.decode(broken, 300)
    with pytest.raises(ShapeError):
        scheme.decode(parts, 3000)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_a_scale_that_is_none_is_refused(scale):
    scheme = compression_of(WIRES[1])
    parts = {**scheme.encode(np.ones(300, np.float32), None, np.random.default_rng(0)).parts}
    parts["scales"] = np.array([1, scale], np.float32)

    with pytest.raises(ShapeError, match="scale"):
        scheme.decode(parts, 300)


@pytest.mark.parametrize("places", [[0, 0], [1, 0], [0, 40], [0, 2**32 - 1]])
def test_places_that_do_not_rise_or_lie_outside_are_refused(places):
    scheme = compression_of(Wire(compression="top", top_share=0.05))
    parts = {"places": np.array(places, np.uint32), "values": np.ones(2, np.float32)}

    with pytest.raises(ShapeError, match="places"):
        scheme.decode(parts, 40)


@pytest.mark.parametrize("broken", [{"top_share": 0}, {"top_share": 1.1}, {"block": 0}, {"compression": "zip"}])
def test_settings_that_break_a_rule_are_refused(broken):
    with pytest.raises(ValidationError):
        Wire(**broken)
