"""`fedmb replay serve`: a process that keeps rows for actors and gives them to learners."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


def serve(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings in TOML.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, like tables.default.capacity=5000; may be repeated.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond loopback with TLS and token.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 for any.")] = None,
    app: Annotated[Path | None, typer.Option(help="Folder made with `fedmb new`; fedmb's own if not given.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Log one JSON object a line.")] = False,
) -> int:
    """Serve replay tables until SIGTERM, which stores them; a second signal ends it at once."""
    import logging
    from os import environ
    from runpy import run_path

    from fedmb.cli.failure import draining
    from fedmb.cli.log_form import logged_failure
    from fedmb.errors import FedmbError, SettingsError
    from fedmb.launch import bundle
    from fedmb.telemetry.log_lines import show_all_warnings

    program = (app or bundle()) / "server" / "replay.py"
    if not program.is_file():
        raise SettingsError(f"an app must have server/replay.py, got {app}; make one with `fedmb new`")
    stop = draining()
    show_all_warnings(json=json)
    log = logging.getLogger(__name__)

    from fedmb.replay.service_section import ReplayServe
    from fedmb.settings import load

    explicit = {"host": host, "port": port}
    try:
        settings = load(ReplayServe, file=config, overrides=override or [], environ=environ, explicit=explicit)
        rows = run_path(str(program))["run"](settings, stop)
    except (FedmbError, OSError) as error:
        code = logged_failure(log, "service", error) if json else None
        if code is None:
            raise
        return code
    print(f"served {len(settings.tables)} tables with {rows} rows")
    return 0
