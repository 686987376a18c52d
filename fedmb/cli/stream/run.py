"""`fedmb stream run`: a process that moves a stream into a ring."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


def run(
    url: Annotated[str | None, typer.Argument(help="The stream, like kafka://broker:9092/rows.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings in TOML.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, like watching.port=9464; may be repeated.")
    ] = None,
    ring: Annotated[Path | None, typer.Option(help="File that rows go to; made when there is none.")] = None,
    task: Annotated[str | None, typer.Option(help="What is learnt, written module:Class.")] = None,
    schema: Annotated[Path | None, typer.Option(help="Columns of the rows, by `fedmb stream schema`.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of /metrics, /healthz and /readyz; 0 for any.")] = None,
    app: Annotated[Path | None, typer.Option(help="Folder made with `fedmb new`; fedmb's own if not given.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Log one JSON object a line.")] = False,
) -> int:
    """Move a stream into a ring until SIGTERM, each record once; a second signal ends it at once."""
    import logging
    from os import environ
    from runpy import run_path

    from fedmb.cli.failure import draining
    from fedmb.cli.log_form import logged_failure
    from fedmb.errors import FedmbError, SettingsError
    from fedmb.launch import bundle
    from fedmb.telemetry.log_lines import show_all_warnings

    program = (app or bundle()) / "streams" / "daemon.py"
    if not program.is_file():
        raise SettingsError(f"an app must have streams/daemon.py, got {app}; make one with `fedmb new`")
    stop = draining()
    show_all_warnings(json=json)
    log = logging.getLogger(__name__)

    from fedmb.federation.stream_run import StreamRun
    from fedmb.settings import load

    explicit = {"url": url, "ring": ring, "task": task, "schema_file": schema, "watching.port": port}
    try:
        settings = load(StreamRun, file=config, overrides=override or [], environ=environ, explicit=explicit)
        moved = run_path(str(program))["run"](settings, stop)
    except (FedmbError, OSError) as error:
        code = logged_failure(log, "daemon", error) if json else None
        if code is None:
            raise
        return code
    print(f"moved {moved.rows} rows of {moved.records} records to {settings.ring}")
    return 0
