"""Rows as one contiguous block of structs, for a wire, a slot of shared memory or a journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import DecodeError
from fedmb.replay.row_layout import row_struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema

WORTH_LOOKING = 1 << 18  # bytes; copying fewer takes less time than finding that they lie well already


class RowBlock:
    """How rows of one schema become a block and columns again; both ends make the same struct of it.

    Args:
        schema: columns of a row.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.dtype = row_struct(schema)
        self.row_bytes: int = self.dtype.itemsize
        self.raw = np.dtype((np.void, self.row_bytes))
        """A row without its columns, which is copied as it is."""
        self._draws_blocks: bool | None = None
        fields: Mapping[str, Any] = self.dtype.fields or {}
        self._offsets = [(name, int(fields[name][1])) for name in schema]
        self._flags = [name for name in schema if np.dtype(schema[name].dtype).kind == "b"]

    def columns(self, block: NDArray[np.void]) -> dict[str, NDArray[Any]]:
        """Views of a block by column, in the schema's order."""
        return {name: block[name] for name in self.schema}

    def block(self, columns: Columns, rows: int) -> NDArray[np.void]:
        """The rows as one block: the one that they are views of, or a fresh one."""
        is_whole = rows * self.row_bytes >= WORTH_LOOKING and self._is_whole(columns, rows)
        return self._origin(columns, rows) if is_whole else self.filled(columns, rows)

    def drawn(self, columns: Columns, rows: int) -> NDArray[np.void]:
        """The rows that a table gave, as one block; looks closely at the first ones, and trusts others to lie alike."""
        origin = columns[self._offsets[0][0]].base
        if (
            rows
            and self._draws_blocks is not False
            and isinstance(origin, np.ndarray)
            and origin.nbytes == rows * self.row_bytes
            and all(columns[name].base is origin for name, _ in self._offsets)
        ):
            if self._draws_blocks is None:
                self._draws_blocks = self._is_whole(columns, rows)
            if self._draws_blocks:
                return self._origin(columns, rows)
        return self.filled(columns, rows)

    def filled(self, columns: Columns, rows: int, out: NDArray[np.void] | None = None) -> NDArray[np.void]:
        """The rows copied into `out`, or into a fresh block whose padding is zero."""
        block = np.zeros(rows, self.dtype) if out is None else out
        for name, _ in self._offsets:
            block[name] = columns[name]
        return block

    def over(self, buffer: Any, rows: int, offset: int = 0) -> NDArray[np.void]:  # whatever has the buffer protocol
        """Rows where they lie; nothing is copied.

        Raises:
            DecodeError: the buffer is too small.
        """
        try:
            return np.ndarray((rows,), self.dtype, buffer, offset)
        except TypeError as error:
            raise DecodeError(
                f"{rows} rows of {self.row_bytes} bytes must fit behind byte {offset}, got fewer; send whole rows"
            ) from error

    def check(self, block: NDArray[np.void]) -> None:
        """Refuse bytes that are no values: a truth value that is neither 0 nor 1.

        Raises:
            DecodeError: the block holds such.
        """
        for name in self._flags:
            if len(block) and block[name].view(np.uint8).max(initial=0) > 1:
                raise DecodeError(f"column {name!r} must hold truth values, got bytes above 1; send rows of the schema")

    def _origin(self, columns: Columns, rows: int) -> NDArray[np.void]:
        origin = columns[self._offsets[0][0]].base
        assert isinstance(origin, np.ndarray), "as `_is_whole` found"
        return origin.reshape(-1).view(np.uint8).view(self.dtype)[:rows]

    def _is_whole(self, columns: Columns, rows: int) -> bool:
        """Whether the columns are all the fields, in their places, of one block of as many rows."""
        origin = columns[self._offsets[0][0]].base
        if not isinstance(origin, np.ndarray) or origin.nbytes != rows * self.row_bytes:
            return False
        if not origin.flags.c_contiguous:
            return False
        start = origin.__array_interface__["data"][0]
        for name, offset in self._offsets:
            column = columns[name]
            if column.base is not origin or column.strides[0] != self.row_bytes:
                return False
            if column.__array_interface__["data"][0] != start + offset:
                return False
        return True
