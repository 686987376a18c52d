"""Columns of a stream's rows in a file of their own, for processes that have no task and no torch.

    {"columns": {"image": {"dtype": "uint8", "shape": [64]}, "label": {"dtype": "uint8", "shape": []}},
     "schema": "2b3c..."}

`fedmb stream schema module:Class` writes it; any language can. `schema` is the name that records carry in their header
`fmb-schema`; it may be left out.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.ingest.codec import check_schema, schema_id

if TYPE_CHECKING:
    from typing import NoReturn

    from fedmb.batch.minibatch import Schema

_MAX_BYTES = 1 << 20  # of a schema's file; a longer one is another file


def schema_text(schema: Schema) -> str:
    """The file's content; equal schemas give equal text."""
    columns = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps({'dtype': one.dtype, 'shape': list(one.shape)})}"
        for name, one in sorted(schema.items())
    )
    return f'{{\n  "columns": {{\n{columns}\n  }},\n  "schema": "{schema_id(schema)}"\n}}\n'


def read_schema(path: Path) -> Schema:
    """The schema in a file.

    Raises:
        SettingsError: the file cannot be read, is not such a file, or its name is not that of its columns.
    """
    try:
        content = path.read_bytes()
        found = json.loads(content[: _MAX_BYTES + 1]) if len(content) <= _MAX_BYTES else None
    except OSError as error:
        raise SettingsError(f"a schema must be a file, got {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError):
        found = None
    columns = found.get("columns") if isinstance(found, dict) else None
    if not isinstance(columns, dict):
        _refuse(path, "no object with columns")
    schema = {name: _column(path, name, entry) for name, entry in columns.items()}
    check_schema(schema)
    named = found.get("schema") if isinstance(found, dict) else None
    if named is not None and named != schema_id(schema):
        raise SettingsError(
            f"a schema's name must be that of its columns, {schema_id(schema)}, got {str(named)[:80]!r} in {path}; "
            "write the file anew with `fedmb stream schema`"
        )
    return schema


def schema_named(name: str) -> Schema:
    """The schema of the class that `name`, written `module:Class`, stands for; torch is loaded only if its module does.

    Raises:
        SettingsError: the module or class does not exist or has no schema.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise SettingsError(f"a task is written module:Class, got {name!r}; for example fedmb.tasks.digits:Digits")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does, but last: a user's folder adds modules and hides none
        sys.path.append(here)
    try:
        owner = getattr(importlib.import_module(module_name), attribute)
        schema = owner.schema if isinstance(getattr(owner, "schema", None), Mapping) else owner().schema
    except (ImportError, AttributeError, TypeError) as error:
        raise SettingsError(
            f"task {name!r} must be importable and have a schema, got: {error}; run where its module can be found, or "
            "give the schema's file instead"
        ) from error
    check_schema(schema)
    found: Schema = schema
    return found


def _column(path: Path, name: str, entry: object) -> Column:
    """A column from its JSON form."""
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    shape = entry.get("shape", []) if isinstance(entry, dict) else None
    if not (isinstance(dtype, str) and isinstance(shape, list) and all(type(size) is int for size in shape)):
        _refuse(path, f"{str(entry)[:80]!r} for column {name!r}")
    try:
        return Column(np.dtype(dtype).name, tuple(shape))
    except TypeError:
        _refuse(path, f"dtype {dtype!r} for column {name!r}")


def _refuse(path: Path, found: str) -> NoReturn:
    raise SettingsError(
        f'a schema is written {{"columns": {{"x": {{"dtype": "float32", "shape": [32]}}}}}}, got {found} in {path}; '
        "make one with `fedmb stream schema module:Class`"
    )
