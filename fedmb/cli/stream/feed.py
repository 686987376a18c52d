"""`fedmb stream feed`: a process that fills a stream."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


def feed(
    url: Annotated[str | None, typer.Argument(help="The stream, like file:///var/lib/fedmb/log?topic=rows.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings in TOML.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, like rows_per_record=16; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the rows.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the stream; keys its rows.")] = None,
    task: Annotated[str | None, typer.Option(help="What is learnt, written module:Class.")] = None,
    rows: Annotated[str | None, typer.Option(help="table:/data/x.npz, table:task or module:function.")] = None,
    order: Annotated[str | None, typer.Option(help="drawn without end, or once in the table's order.")] = None,
    codec: Annotated[str | None, typer.Option(help="packed, sample, json or another.")] = None,
    rows_per_second: Annotated[float | None, typer.Option(help="Pace; inf for as fast as it goes.")] = None,
    records: Annotated[int | None, typer.Option(help="Stop when the stream holds so many records.")] = None,
    labels_before: Annotated[str | None, typer.Option(help="Labels until the drift, like 0,1,2.")] = None,
    labels_after: Annotated[str | None, typer.Option(help="Labels after it.")] = None,
    drift_record: Annotated[int | None, typer.Option(help="Record with which the labels change.")] = None,
    app: Annotated[Path | None, typer.Option(help="Folder made with `fedmb new`; fedmb's own if not given.")] = None,
) -> int:
    """Fill a stream with rows of a table or of a function until SIGTERM, from where it ends."""
    import logging
    from os import environ
    from runpy import run_path

    from fedmb.cli.failure import draining
    from fedmb.errors import SettingsError
    from fedmb.launch import bundle
    from fedmb.telemetry.log_lines import show_all_warnings

    program = (app or bundle()) / "streams" / "feeder.py"
    if not program.is_file():
        raise SettingsError(f"an app must have streams/feeder.py, got {app}; make one with `fedmb new`")
    stop = draining()
    show_all_warnings()
    log = logging.getLogger(__name__)

    from fedmb.federation.stream_feed import StreamFeed
    from fedmb.settings import load

    explicit = {
        "url": url,
        "seed": seed,
        "name": name,
        "task": task,
        "rows": rows,
        "order": order,
        "codec": codec,
        "rows_per_second": rows_per_second,
        "records": records,
        "labels_before": _numbers("--labels-before", labels_before),
        "labels_after": _numbers("--labels-after", labels_after),
        "drift_record": drift_record,
    }
    settings = load(StreamFeed, file=config, overrides=override or [], environ=environ, explicit=explicit)
    log.info("feeder started url=%s rows_per_second=%g", settings.url, settings.rows_per_second)
    appended = run_path(str(program))["feed"](settings, stop)
    print(f"appended {appended} records to {settings.url}")
    return 0


def _numbers(flag: str, text: str | None) -> list[int] | None:
    """Labels written with commas between."""
    from fedmb.errors import SettingsError

    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SettingsError(f"labels are whole numbers with commas between, got {text!r}; like {flag} 0,1,2") from None
