"""`fedmb stream lag`: how far behind a stream's end somebody is."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.ingest.lag import PartitionLag


def lag(
    url: Annotated[str, typer.Argument(help="The stream, like kafka://broker:9092/rows.")],
    ledger: Annotated[
        Path | None, typer.Option(help="Who has learnt: a run, a checkpoint, a ring, a client's directory or JSON.")
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show where each partition of a stream begins and ends, and how much of it is not learnt yet."""
    from contextlib import closing

    from fedmb.federation.stream_ledger import ledger_at
    from fedmb.ingest.codec_choice import codecs_in
    from fedmb.ingest.lag import lags
    from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of
    from fedmb.ledger import Ledger

    stream = StreamUrl.parse(codecs_in(url)[0])
    learnt = ledger_at(ledger) if ledger else Ledger()
    log = open_log(stream, create=False)
    with closing(log.reader(stream.topic, partitions_of(log, stream))) as reader:
        found = lags(reader, learnt)
    if json:
        from json import dumps

        print(dumps({"lag": sum(one.lag for one in found), "partitions": [one.to_json() for one in found]}, indent=2))
    else:
        _print_table(found)


def _print_table(found: Sequence[PartitionLag]) -> None:
    """A table on stdout, readable without colour."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_footer=True)
    table.add_column("partition", "all", overflow="fold")
    for name in ("begin", "learnt", "end"):
        table.add_column(name, justify="right")
    table.add_column("lag", str(sum(one.lag for one in found)), justify="right")
    table.add_column("gone", str(sum(one.gone for one in found)), justify="right")
    for one in found:
        learnt = "-" if one.learnt is None else f"{one.learnt.offset}" + f"+{one.learnt.row}" * bool(one.learnt.row)
        cells = (str(one.partition), one.begin, learnt, one.end, one.lag, one.gone)
        table.add_row(*(Text(str(cell)) for cell in cells))
    Console().print(table)
