"""Where the rows of a fed stream come from, each record a function of its number.

table:/data/x.npz      a table at rest: drawn by label, drawn evenly, or once in its order
my.module:function     a function of the record's number, or a generator whose n-th item is record n

So a feeder that was killed goes on with the very record it would have written. A generator is run again up to there.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmb.batch.minibatch import check_columns
from fedmb.errors import SettingsError, ShapeError
from fedmb.ingest.codec import check_finite
from fedmb.ingest.producer import EndOfRecords
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class EvenRows:
    """Endless records of rows drawn evenly from a table, with replacement.

    Args:
        columns: the table, first axis `(examples, ...)`.
        rows_per_record: rows of a record.
        seed: seed of the run.
        stream: name of the stream; two streams of one seed draw differently.
    """

    def __init__(self, columns: Columns, *, rows_per_record: int, seed: int, stream: str) -> None:
        self._columns, self._rows_per_record, self._seed, self._stream = columns, rows_per_record, seed, stream
        self._num_rows = len(next(iter(columns.values())))

    def __call__(self, record: int) -> dict[str, NDArray[Any]]:
        """Columns of record number `record`."""
        random = generator(self._seed, self._stream, record, "even rows")
        index = random.integers(self._num_rows, size=self._rows_per_record)
        return {name: array.take(index, axis=0) for name, array in self._columns.items()}


class RowsInOrder:
    """A table from its first row to its last, once; the last record may be short.

    Args:
        columns: the table, first axis `(examples, ...)`.
        rows_per_record: rows of a record.
    """

    def __init__(self, columns: Columns, *, rows_per_record: int) -> None:
        self._columns, self._rows_per_record = columns, rows_per_record
        self.num_records = math.ceil(len(next(iter(columns.values()))) / rows_per_record)
        """Records that the table fills."""

    def __call__(self, record: int) -> dict[str, NDArray[Any]]:
        """Columns of record number `record`.

        Raises:
            EndOfRecords: the table ends before it.
        """
        if record >= self.num_records:
            raise EndOfRecords
        rows = slice(record * self._rows_per_record, (record + 1) * self._rows_per_record)
        return {name: array[rows] for name, array in self._columns.items()}


class GeneratedRows:
    """What a user's function or generator gives, checked.

    Args:
        function: of a record's number; or a generator function without parameters.
        schema: columns that rows must have.
        singly: records have one row each: a generator's items are dealt out row by row.
        name: of the function, for messages.
    """

    def __init__(self, function: Callable[..., Any], schema: Schema, *, singly: bool, name: str) -> None:
        self._function, self._schema, self._singly, self._name = function, schema, singly, name
        self._items: Iterator[Columns] | None = None
        self._next = 0
        self._is_generator = inspect.isgeneratorfunction(function)

    def __call__(self, record: int) -> Columns:
        """Columns of record number `record`.

        Raises:
            EndOfRecords: the generator ends before it.
            ShapeError: what was given does not follow the schema.
        """
        if not self._is_generator:
            return self._checked(self._function(record), record)
        if self._items is None or record < self._next:
            self._items, self._next = self._dealt(), 0
        for found in self._items:
            self._next += 1
            if self._next > record:
                return found
        raise EndOfRecords

    def _dealt(self) -> Iterator[Columns]:
        for number, item in enumerate(self._function()):
            columns = self._checked(item, number, may_have_many=True)
            if not self._singly:
                yield columns
                continue
            for row in range(len(next(iter(columns.values())))):
                yield {name: column[row : row + 1] for name, column in columns.items()}

    def _checked(
        self, found: Any, record: int, *, may_have_many: bool = False
    ) -> Columns:  # a user's function gives it
        try:
            rows = check_columns(found, self._schema)
            check_finite(found)
        except (AttributeError, TypeError, ValueError) as error:  # ShapeError among them
            raise ShapeError(f"{self._name} must give columns of the task's schema, item {record}: {error}") from error
        if rows < 1 or (rows > 1 and self._singly and not may_have_many):
            wanted = "1 row" if self._singly else "1 row or more"
            raise ShapeError(
                f"{self._name} must give {wanted} for each record, got {rows} for {record}; packed records hold many"
            )
        columns: Columns = found
        return columns


def is_function(name: str) -> bool:
    """Whether `name` is written `module:function`."""
    return _FUNCTION.fullmatch(name) is not None and not name.startswith(("table:", "dataset:"))


def load_function(name: str) -> Callable[..., Any]:
    """The function that `name`, written `module:function`, stands for.

    Raises:
        SettingsError: the module or function does not exist.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does, but last: a user's folder adds modules and hides none
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"rows {name!r} must be importable, got: {error}; run where its module can be found, or set PYTHONPATH",
            key="rows",
        ) from error
    if not callable(function):
        raise SettingsError(f"rows {name!r} must be a function, got {type(function).__name__}; name one", key="rows")
    found: Callable[..., Any] = function
    return found
