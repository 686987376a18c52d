"""A model in one buffer a dtype, and the layout that says which part of it is which array.

A model of 160 arrays costs 160 headers, copies and hashes where each array travels by itself. Here names, shapes and
dtypes stand in a `Layout`, arrays of one dtype lie one after the other in the order of their names, and every array
is a view on its buffer. A layout that comes from elsewhere is refused before anything of the size it speaks of is
made: `from_text` bounds it, and buffers must have exactly the size it says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from fedmb.arrays.bfloat16 import BFLOAT16, is_real, rounded, widened
from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name).newbyteorder("<")
        for name in (
            *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64"),
        )
    },
    "bfloat16": BFLOAT16,
}
"""dtypes that a model may have, by name."""

MAX_ARRAYS = 100_000  # the largest models have thousands
MAX_NAME = 512  # letters
MAX_DIMENSIONS = 32
MAX_TEXT = 32 << 20  # bytes: MAX_ARRAYS names of ordinary length
MAX_BYTES = 1 << 40  # of a model
_ENTRY = 3  # name, dtype and shape


class Slot(NamedTuple):
    """One array in the buffer of its dtype."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    """First element, counted from the buffer's beginning."""
    stop: int


class Layout:
    """Names, dtypes and shapes of a model's arrays; equal ones have equal `text`, in whatever order they were named.

    Args:
        arrays: dtype name and shape by array name.

    Raises:
        ShapeError: a name, dtype or shape is none that a model has.
    """

    def __init__(self, arrays: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        if len(arrays) > MAX_ARRAYS:
            _refuse(f"a model has at most {MAX_ARRAYS} arrays", len(arrays))
        slots: list[Slot] = []
        sizes: dict[str, int] = {}
        for name in sorted(arrays):
            kind, shape = arrays[name]
            _check_entry(name, kind, shape)
            start = sizes.get(kind, 0)
            sizes[kind] = stop = start + math.prod(shape)
            slots.append(Slot(name, kind, shape, start, stop))
        self.slots = tuple(slots)
        self.sizes = {kind: sizes[kind] for kind in sorted(sizes)}
        """Elements by dtype name."""
        if self.num_bytes > MAX_BYTES:
            _refuse(f"a model has at most {MAX_BYTES} bytes", self.num_bytes)
        self.text = json.dumps([[one.name, one.kind, one.shape] for one in slots], separators=(",", ":"))

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """The layout of a model's arrays."""
        if isinstance(arrays, FlatArrays):
            return arrays.layout
        return cls({name: (kind_of(array.dtype), array.shape) for name, array in arrays.items()})

    @classmethod
    def from_text(cls, text: str) -> Layout:
        """Read `text` back.

        Raises:
            ShapeError: it is too long, no layout, or not the one text that its layout has.
        """
        if len(text) > MAX_TEXT:
            _refuse(f"a layout has at most {MAX_TEXT} letters", len(text))
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ShapeError(f"a layout must be JSON, got {text[:80]!r}; send Layout.text") from error
        if not isinstance(found, list) or len(found) > MAX_ARRAYS:
            _refuse(f"a layout must list at most {MAX_ARRAYS} arrays", text[:80])
        arrays: dict[str, tuple[str, tuple[int, ...]]] = {}
        for entry in found:
            if not (isinstance(entry, list) and len(entry) == _ENTRY and isinstance(entry[2], list)):
                _refuse("an array in a layout must be [name, dtype, shape]", entry)
            arrays[_name(entry[0])] = (entry[1], tuple(entry[2]))
        layout = cls(arrays)
        if layout.text != text:  # one form, so that texts may be compared in place of layouts
            _refuse("a layout must name each array once, sorted, without blanks", text[:80])
        return layout

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(size * DTYPES[kind].itemsize for kind, size in self.sizes.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def check(self, other: Layout) -> None:
        """Demand that `other` is this layout.

        Raises:
            ShapeError: it differs; says in what first.
        """
        if self.text == other.text:
            return
        mine, theirs = ({slot.name: slot for slot in layout.slots} for layout in (self, other))
        missing, unknown = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
        if missing or unknown:
            raise ShapeError(
                f"arrays must carry the model's names, missing {missing[:3]}, unknown {unknown[:3]}; "
                "client and server must run the same task"
            )
        for name, slot in mine.items():
            for what, wanted, got in (
                ("shape", slot.shape, theirs[name].shape),
                ("dtype", slot.kind, theirs[name].kind),
            ):
                if wanted != got:
                    raise ShapeError(
                        f"array {name!r} must have {what} {wanted}, got {got}; client and server must run the same task"
                    )


class FlatArrays(Mapping[str, "NDArray[Any]"]):
    """A model's arrays by name, each a view on the buffer of its dtype.

    Args:
        layout: which array lies where.
        buffers: one array of one dimension for each dtype name in the layout.

    Raises:
        ShapeError: a buffer is missing, too many, or of another size or dtype.
    """

    def __init__(self, layout: Layout, buffers: Mapping[str, NDArray[Any]]) -> None:
        if buffers.keys() != layout.sizes.keys():
            _refuse(f"a model's buffers must be {sorted(layout.sizes)}", sorted(map(str, buffers))[:8])
        for kind, size in layout.sizes.items():
            if buffers[kind].dtype != DTYPES[kind] or buffers[kind].shape != (size,):
                _refuse(
                    f"the buffer {kind!r} must have {size} elements of {DTYPES[kind]}",
                    f"shape {buffers[kind].shape} of {buffers[kind].dtype}",
                )
        self.layout = layout
        self.buffers = buffers
        self._views = {
            slot.name: buffers[slot.kind][slot.start : slot.stop].reshape(slot.shape) for slot in layout.slots
        }

    @classmethod
    def packed(cls, arrays: Mapping[str, NDArray[Any]]) -> FlatArrays:
        """Copies of `arrays` in one buffer a dtype; what is packed already is answered as it is."""
        if isinstance(arrays, FlatArrays):
            return arrays
        layout = Layout.of(arrays)
        flat = cls(layout, {kind: np.empty(size, DTYPES[kind]) for kind, size in layout.sizes.items()})
        for name, view in flat.items():
            view[...] = arrays[name]
        return flat

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def reals(self) -> dict[str, NDArray[Any]]:
        """What may be averaged, as at most two vectors: "float64", and "float32" with 16-bit floats widened behind it.

        A model of float32 gives its buffer itself.
        """
        groups = {}
        for group, kinds in _groups(self.layout).items():
            parts = [widened(self.buffers[kind]).astype(group, copy=False) for kind in kinds]
            groups[group] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return groups

    def replaced(self, reals: Mapping[str, NDArray[Any]], whole: FlatArrays) -> FlatArrays:
        """The model with `reals`, in this model's dtypes, and with the whole numbers of `whole`.

        Raises:
            ShapeError: vectors are missing, too many, or of another size, or `whole` is another model.
        """
        self.layout.check(whole.layout)
        groups = _groups(self.layout)
        sizes = {group: sum(self.layout.sizes[kind] for kind in kinds) for group, kinds in groups.items()}
        if {group: vector.shape for group, vector in reals.items()} != {group: (n,) for group, n in sizes.items()}:
            _refuse(
                f"what is averaged must be vectors of {sizes} elements",
                {name: vector.shape for name, vector in reals.items()},
            )
        buffers = {kind: buffer for kind, buffer in whole.buffers.items() if not is_real(DTYPES[kind])}
        for group, kinds in groups.items():
            start = 0
            for kind in kinds:
                part = reals[group][start : start + self.layout.sizes[kind]]
                buffers[kind] = rounded(part) if kind == "bfloat16" else part.astype(DTYPES[kind], copy=False)
                start += self.layout.sizes[kind]
        return FlatArrays(self.layout, {kind: buffers[kind] for kind in self.layout.sizes})


def _groups(layout: Layout) -> dict[str, list[str]]:
    """Dtype names of what may be averaged, by the dtype in which it is."""
    groups: dict[str, list[str]] = {}
    for kind in ("float64", "float32", "float16", "bfloat16"):
        if kind in layout.sizes:
            groups.setdefault("float64" if kind == "float64" else "float32", []).append(kind)
    return groups


def kind_of(dtype: np.dtype[Any]) -> str:
    """Name of a dtype in a layout.

    Raises:
        ShapeError: no model has arrays of it.
    """
    kind = "bfloat16" if dtype == BFLOAT16 else str(dtype.name)
    if kind not in DTYPES:
        _refuse(f"a model's arrays must be of one of {sorted(DTYPES)}", str(dtype))
    return kind


def _name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        _refuse(f"an array's name must have 1 to {MAX_NAME} printable letters", repr(name)[:80])
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        _refuse("an array's name must not be a path out of its place", repr(name)[:80])
    return name


def _check_entry(name: str, kind: object, shape: tuple[object, ...]) -> None:
    _name(name)
    if not isinstance(kind, str) or kind not in DTYPES:
        _refuse(f"array {name!r} must be of one of {sorted(DTYPES)}", repr(kind)[:80])
    if len(shape) > MAX_DIMENSIONS or not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape):
        _refuse(f"array {name!r} must have up to {MAX_DIMENSIONS} sizes from 0", repr(shape)[:80])


def _refuse(rule: str, got: object) -> NoReturn:
    raise ShapeError(f"{rule}, got {got}; client and server must run the same task")
