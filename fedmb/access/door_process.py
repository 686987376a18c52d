"""The door's process, which `fedmb server` starts and keeps.

python -m fedmb.access.door_process plan.json
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedmb.access.door import Door, to_superlink
from fedmb.access.door_plan import DoorPlan
from fedmb.access.node_keys import NodeKeys

if TYPE_CHECKING:
    from asyncio import Transport

_HEADER_BYTES = 16_384  # of one request; a SuperNode's have less than 2,000
_DRAIN_SECONDS = 1  # for requests under way when the server ends


def main(plan: DoorPlan) -> None:
    """Serve until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # else each stranger's nonsense is a line
    keys = None if plan.node_keys is None else NodeKeys(plan.node_keys)
    asyncio.run(_serve(plan, keys))


async def _serve(plan: DoorPlan, keys: NodeKeys | None) -> None:
    limits = plan.limits
    async with to_superlink(plan.superlink, limits.request_seconds) as superlink:
        config = uvicorn.Config(
            Door(superlink, limits, keys, dt.datetime.now(dt.UTC)),
            host=plan.host,
            port=plan.port,
            ssl_certfile=plan.certificate,
            ssl_keyfile=plan.key,
            http=_impatient(limits.header_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=limits.max_connections,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        await uvicorn.Server(config).serve()


def _impatient(seconds: float) -> type[H11Protocol]:
    """Uvicorn's protocol, which closes a connection whose first headers do not come in time."""

    class Impatient(H11Protocol):
        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's own
            super().connection_made(transport)
            self.loop.call_later(seconds, self._close_if_silent)

        def _close_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.abort()

    return Impatient


if __name__ == "__main__":
    main(DoorPlan.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
