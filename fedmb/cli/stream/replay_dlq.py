"""`fedmb stream replay-dlq`: records that were set aside, back into their topic."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


def replay_dlq(
    url: Annotated[str, typer.Argument(help="The stream whose dead letters are meant, like kafka://broker:9092/rows.")],
    to: Annotated[str | None, typer.Option(help="The stream that they go to; the first one if not given.")] = None,
    start: Annotated[int | None, typer.Option("--from", help="Offset of the first letter.", min=0)] = None,
    limit: Annotated[float | None, typer.Option(help="Replay so many at most.", min=1)] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="File that says what was replayed; TOPIC.dlq.replayed.json if not given.")
    ] = None,
    task: Annotated[str, typer.Option(help="Whose columns the rows have.")] = "fedmb.tasks.digits:Digits",
    schema: Annotated[Path | None, typer.Option(help="Columns of the rows, by `fedmb stream schema`.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> int:
    """Append the dead letters that can be read now to a stream, each once; the others stay where they are."""
    from fedmb.cli.failure import draining
    from fedmb.federation.stream_schema import read_schema, schema_named
    from fedmb.ingest.dead_letter_replay import DeadLetterReplay, replay
    from fedmb.settings import load
    from fedmb.telemetry.log_lines import show_all_warnings

    stop = draining()
    show_all_warnings()
    explicit = {"url": url, "to": to, "start": start, "limit": limit, "ledger": ledger, "dry_run": dry_run or None}
    settings = load(DeadLetterReplay, explicit=explicit)
    report = replay(settings, read_schema(schema) if schema else schema_named(task), stop)
    done = "would replay" if dry_run else "replayed"
    print(f"{done} {report.replayed} of {report.letters} letters to {to or url}, {report.repeated} replayed before")
    for name, count in report.undecodable.most_common():
        print(f"still {name}: {count}; the last: {report.last_errors[name]}")
    return 0
