"""Tables from comma-separated text, under a schema that says what the text stands for."""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.npy import check_size
from fedmb.errors import DecodeError, SettingsError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Schema

CHUNK_ROWS = 4096  # text of so many rows is held as Python strings, which take ten times the room of the numbers

_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def headers_of(name: str, column: Column) -> list[str]:
    """The header cells that column `name` is read from: its name, or `name_0`, `name_1` ... for a vector.

    Raises:
        SettingsError: the column's examples are neither numbers nor vectors of numbers.
    """
    if np.dtype(column.dtype).kind not in "biuf" or len(column.shape) > 1:
        raise SettingsError(
            f"a .csv column must hold numbers or vectors of numbers, got {column} for {name!r}; save it as .npz",
            key="schema",
        )
    return [f"{name}_{place}" for place in range(column.shape[0])] if column.shape else [name]


def read_csv(path: Path, schema: Schema, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The columns of `schema` in a `.csv` file with a header; other columns of the file are left out.

    UTF-8, comma, double quotes. Truth values are written 1, 0, true or false.

    Raises:
        SettingsError: the schema holds what text cannot.
        DecodeError: a cell is not of its column's dtype, or a row too short or long; line and column are named.
        ShapeError: the header lacks a column, or has one twice.
    """
    check_size(path, path.stat().st_size, max_bytes)
    wanted = {cell: np.dtype(column.dtype) for name, column in schema.items() for cell in headers_of(name, column)}
    parts: dict[str, list[NDArray[Any]]] = {cell: [] for cell in wanted}
    size = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            header = next(reader, [])
            places = _places(path, header, wanted)
            rows = _numbered(path, reader, len(header))
            while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
                for cell, place in places.items():
                    array = _parsed(path, cell, wanted[cell], [(line, row[place]) for line, row in chunk])
                    parts[cell].append(array)
                    size += array.nbytes
                check_size(path, size, max_bytes)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DecodeError(f"a table must be readable .csv in UTF-8, got {path}: {error}; save it again") from error
    joined = {cell: np.concatenate(arrays) if arrays else np.empty(0, wanted[cell]) for cell, arrays in parts.items()}
    return {
        name: np.stack([joined[cell] for cell in headers_of(name, column)], axis=1) if column.shape else joined[name]
        for name, column in schema.items()
    }


def _places(path: Path, header: list[str], wanted: Iterable[str]) -> dict[str, int]:
    cells = [cell.strip() for cell in header]
    for cell in wanted:
        if cells.count(cell) != 1:
            raise ShapeError(
                f"the header of a .csv must name {cell!r} once, got {cells} in {path}; its first line names the columns"
            )
    return {cell: cells.index(cell) for cell in wanted}


def _numbered(path: Path, reader: Any, width: int) -> Iterable[tuple[int, list[str]]]:  # csv.reader's type is private
    """Rows with the line each ends on; blank lines are passed over."""
    for row in reader:
        if not row:
            continue
        if len(row) != width:
            raise DecodeError(
                f"line {reader.line_num} of {path} must have {width} cells like the header, got {len(row)}; quote "
                "cells that hold commas"
            )
        yield reader.line_num, row


def _parsed(path: Path, name: str, dtype: np.dtype[Any], cells: list[tuple[int, str]]) -> NDArray[Any]:
    parse = _PARSERS[dtype.kind]
    try:
        return np.array([parse(cell) for _, cell in cells], dtype)
    except (ValueError, OverflowError, KeyError):
        line, cell = next((line, cell) for line, cell in cells if not _is_valid(parse, cell, dtype))
        raise DecodeError(
            f"column {name!r} must hold {dtype.name}, got {cell!r} in line {line} of {path}; correct or drop the row"
        ) from None


def _is_valid(parse: Callable[[str], Any], cell: str, dtype: np.dtype[Any]) -> bool:
    try:
        np.array(parse(cell), dtype)
    except (ValueError, OverflowError, KeyError):
        return False
    return True


def _truth(cell: str) -> bool:
    return _TRUTH[cell.strip().lower()]


_PARSERS: Mapping[str, Callable[[str], Any]] = {"b": _truth, "i": int, "u": int, "f": float}
