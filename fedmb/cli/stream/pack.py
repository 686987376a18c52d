"""`fedmb stream pack`: a topic of single rows into a topic of many rows a record."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


def pack(
    url: Annotated[str, typer.Argument(help="The stream to pack, like kafka://broker:9092/samples.")],
    to: Annotated[str, typer.Option(help="The packed stream, of the same partitions.")],
    rows: Annotated[int, typer.Option(help="Rows in one packed record.", min=1)] = 256,
    linger_seconds: Annotated[float, typer.Option(help="How long rows wait for more of them.", min=0)] = 1.0,
    task: Annotated[str, typer.Option(help="Whose columns the rows have.")] = "fedmb.tasks.digits:Digits",
    schema: Annotated[Path | None, typer.Option(help="Columns of the rows, by `fedmb stream schema`.")] = None,
    *,
    to_the_end: Annotated[bool, typer.Option("--to-the-end", help="Stop when all that is there is packed.")] = False,
) -> int:
    """Pack single rows into records of many until SIGTERM, each row once; goes on where it was stopped or killed."""
    from fedmb.cli.failure import draining
    from fedmb.federation.stream_pack import open_packers
    from fedmb.federation.stream_schema import read_schema, schema_named
    from fedmb.ingest.pack import pack as run
    from fedmb.telemetry.log_lines import show_all_warnings

    stop = draining()
    show_all_warnings()
    columns = read_schema(schema) if schema else schema_named(task)
    packers, letters = open_packers(url, to, columns, rows=rows, linger_seconds=linger_seconds)
    try:
        found = run(packers, stop, to_the_end=to_the_end)
    finally:
        letters.close()
    print(f"packed {found.rows} rows into {found.records} records of {to}, set aside {found.rejected}")
    return 0
