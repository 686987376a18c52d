"""`fedmb stream schema`: a task's columns as a file."""

from __future__ import annotations

from typing import Annotated

import typer


def schema(task: Annotated[str, typer.Argument(help="What is learnt, written module:Class.")]) -> None:
    """Print the columns of a task's rows in JSON, for processes without the task: `... > schema.json`."""
    from fedmb.federation.stream_schema import schema_named, schema_text

    print(schema_text(schema_named(task)), end="")
