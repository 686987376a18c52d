"""One row of arrays and numbers into its slot.

The loop over a schema's columns costs as much as the work in it, so a function is written out for the schema, as
`collections.namedtuple` does; only numbers enter its text, no names. For columns (17,), (6,), (), (17,), () it reads

    v0, v1, v2, v3, v4 = row
    if v0.dtype is d0 and v0.ndim == 1 and len(v0) == 17 and ...:
        memory[slot * 168 : (slot + 1) * 168] = pack(v1.tobytes(), v3.tobytes(), v0.tobytes(), v2, truth[v4])

Return:
which takes 0.5 us where five assignments through NumPy take 1.2 us, and a loop around `pack` 0.8 us. Whatever it does
not know (lists, other dtypes, wrong shapes) goes to `checked`, which casts or refuses. Either way a row is whole before
its first byte is written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema

WriteRow: TypeAlias = Callable[[int, Sequence[Any]], None]
CODES = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}  # numbers that struct packs as NumPy would; complex ones it does not know
TRUTH = {True: True, False: False}  # finds NumPy's truth values, 0 and 1 too; struct would take a list for True
UNKNOWN = (struct.error, AttributeError, TypeError, ValueError, OverflowError, LookupError)


def struct_writer(schema: Schema, row_dtype: np.dtype[np.void], memory: memoryview) -> WriteRow:
    """A function that writes a row into its struct.

    Args:
        schema: columns in the order of a row's values.
        row_dtype: the struct, whose fields leave no gap but at its end.
        memory: bytes of all structs.
    """
    names, size, form, values, used = list(schema), row_dtype.itemsize, "=", [], 0
    for name in row_dtype.names or ():
        code, number = _code(schema, name), names.index(name)
        num_bytes = np.dtype((schema[name].dtype, schema[name].shape)).itemsize
        form += code or f"{num_bytes}s"
        values.append(_number(number, code) if code else f"v{number}.tobytes()")
        used += num_bytes
    body = f"memory[slot * {size} : (slot + 1) * {size}] = pack({', '.join(values)})"
    pack = struct.Struct(f"{form}{size - used}x").pack

    def slowly(slot: int, row: Sequence[Any]) -> None:
        one = np.zeros(1, row_dtype)
        for name, value in zip(schema, checked(row, schema), strict=True):
            one[name] = value
        _check_slot(slot, len(memory) // size)
        memory[slot * size : (slot + 1) * size] = one.tobytes()

    return _compiled(schema, [body], slowly, {"memory": memory, "pack": pack})


def column_writer(schema: Schema, columns: Mapping[str, NDArray[Any]]) -> WriteRow:
    """A function that writes a row's values into their columns, which are in the order of the schema."""
    plain = [(_number(number, code), code) for number, name in enumerate(schema) if (code := _code(schema, name))]
    pack = struct.Struct("=" + "".join(code for _, code in plain)).pack
    targets = list(columns.values())
    capacity = len(targets[0])
    body = [f"pack({', '.join(value for value, _ in plain)})"]  # for its refusals: NumPy would cut 1.5 to 1
    body += [f"c{number}[slot] = v{number}" for number in range(len(targets))]
    used = {f"c{number}": target for number, target in enumerate(targets)}

    def slowly(slot: int, row: Sequence[Any]) -> None:
        values = checked(row, schema)
        _check_slot(slot, capacity)
        for target, value in zip(targets, values, strict=True):
            target[slot] = value

    return _compiled(schema, body, slowly, {"pack": pack, **used}, f"0 <= slot < {capacity}")


def checked(row: Sequence[Any], schema: Schema) -> list[NDArray[Any]]:
    """The values as arrays of the schema's shapes, and of dtypes that can be stored.

    Raises:
        ShapeError: a value is missing, of another shape, or of a dtype that cannot be cast.
    """
    if len(row) != len(schema):
        raise ShapeError(f"a row must have one value for each of {list(schema)}, got {len(row)}; pass them in order")
    arrays = []
    for (name, column), value in zip(schema.items(), row, strict=True):
        array = np.asarray(value)
        if array.shape != tuple(column.shape) or not _can_store(array, np.dtype(column.dtype)):
            raise ShapeError(
                f"a row's {name!r} must hold {column.dtype} of shape {column.shape}, got {array.dtype.name} of shape "
                f"{array.shape}; convert it"
            )
        arrays.append(array)
    return arrays


def _compiled(schema: Schema, body: list[str], slowly: WriteRow, used: dict[str, Any], *tests_too: str) -> WriteRow:
    """The function written out: `body` with what it uses where every test holds, or else `slowly`."""
    known = {"slowly": slowly, "unknown": UNKNOWN, "truth": TRUTH, **used}
    tests = list(tests_too)
    for number, (name, column) in enumerate(schema.items()):
        if _code(schema, name):
            continue
        known[f"d{number}"] = np.dtype(column.dtype)
        tests.append(f"v{number}.dtype is d{number}")
        if len(column.shape) == 1:  # half the time of looking at the shape
            tests.append(f"v{number}.ndim == 1 and len(v{number}) == {int(column.shape[0])}")
        else:
            tests.append(f"v{number}.shape == {tuple(map(int, column.shape))}")
    text = f"""
def write_row(slot, row):
    try:
        {", ".join(f"v{number}" for number in range(len(schema)))}, = row
        if {" and ".join(tests) or "True"}:
            {"; ".join(body)}
            return
    except unknown:
        pass
    slowly(slot, row)
"""
    exec(text, known)  # noqa: S102  # numbers and our own names only
    return cast("WriteRow", known.pop("write_row"))  # popped, or it would hold itself, and a closed file's pages


def _code(schema: Schema, name: str) -> str | None:
    """How struct writes a column's number; None where it is an array, or of a kind unknown to it."""
    return None if schema[name].shape else CODES.get(np.dtype(schema[name].dtype).name)


def _number(place: int, code: str) -> str:
    """What is packed of the number at this place of a row."""
    return f"truth[v{place}]" if code == CODES["bool"] else f"v{place}"


def _check_slot(slot: int, capacity: int) -> None:
    if not 0 <= slot < capacity:
        raise IndexError(f"a slot must be 0 to {capacity - 1}, got {slot}")


def _can_store(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether the values keep their kind: integers may become floats, but not floats integers."""
    if dtype.kind == "b":
        return array.dtype.kind in "biuf"  # the truth of a number, as Python has it
    if array.dtype.kind in "iu" and dtype.kind in "iu":  # Python's integers are int64: look whether they fit
        limits = np.iinfo(dtype)
        return not array.size or (limits.min <= int(array.min()) and int(array.max()) <= limits.max)
    return np.can_cast(array.dtype, dtype, "same_kind")
