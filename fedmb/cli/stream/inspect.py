"""`fedmb stream inspect`: what lies in a stream."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedmb.ingest.inspect_records import InspectedRecord


def inspect(
    url: Annotated[str, typer.Argument(help="The stream, like kafka://broker:9092/rows.")],
    offset: Annotated[int | None, typer.Option(help="First record shown; negative counts from the end.")] = None,
    limit: Annotated[int, typer.Option(help="Records shown of each partition.", min=1)] = 10,
    task: Annotated[str | None, typer.Option(help="Whose columns the rows have, written module:Class.")] = None,
    schema: Annotated[Path | None, typer.Option(help="Columns of the rows, by `fedmb stream schema`.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a record.")] = False,
) -> None:
    """Show records of a stream: place, time, headers, codec, columns, first values; or why one cannot be decoded."""
    from contextlib import closing
    from dataclasses import asdict
    from json import dumps

    from fedmb.federation.stream_schema import read_schema, schema_named
    from fedmb.ingest.codec_choice import codecs_in
    from fedmb.ingest.inspect_records import inspected
    from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of

    plain, choice = codecs_in(url)
    stream = StreamUrl.parse(plain)
    columns = read_schema(schema) if schema else schema_named(task) if task else None
    codecs = choice.for_schema(columns) if columns else ()
    log = open_log(stream, create=False)
    with closing(log.reader(stream.topic, partitions_of(log, stream))) as reader:
        for record in inspected(reader, codecs, offset=offset, limit=limit):
            print(dumps(asdict(record)) if json else _text(record))


def _text(record: InspectedRecord) -> str:
    """A record as lines for a person."""
    lines = [f"{record.partition} @ {record.offset}  {record.time}  {record.num_bytes} bytes"]
    lines += [f"  {key}: {value}" for key, value in record.headers.items()]
    if record.reason:
        lines.append(f"  not decoded: {record.reason}")
    else:
        lines.append(f"  {record.codec}, {record.rows} rows")
    for name, values in record.values.items():
        shown = ", ".join(map(str, values))
        lines.append(f"  {name} {record.columns.get(name, '')}: {shown}")
    return "\n".join(lines)
