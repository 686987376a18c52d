"""A small web server for those who watch a process: Prometheus, load balancers, people with curl.

/metrics   figures in Prometheus' text or OpenMetrics form, of a registry of this server's own
/healthz   200 while the process does its work, 503 and the reason otherwise
/readyz    200 once it began to, 503 and the reason before that and while it ends
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0  # who takes longer to say what he wants is sent away, so that no thread waits for ever
MAX_WATCHERS = 16  # requests at once; more are refused, not queued
STOP_SECONDS = 0.1  # between two looks at whether to stop


class MetricsServer:
    """Answers on a port from threads of its own until `close`.

    Args:
        collect: the figures of this moment; called for each request, from any thread.
        unhealthy: why the process does not do its work, empty when it does.
        unready: why it has not begun to, or no longer does; empty when it is under way.
        host: address to listen on. What is shown names topics and counts, no rows; it is not encrypted.
        port: port to listen on, 0 for any that is free.

    Raises:
        SettingsError: the address cannot be listened on.
    """

    def __init__(
        self,
        collect: Callable[[], Iterable[Metric]],
        *,
        unhealthy: Callable[[], str],
        unready: Callable[[], str],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        registry = CollectorRegistry()
        registry.register(_Called(collect))
        ProcessCollector(registry=registry)  # process_resident_memory_bytes and others, by their usual names
        try:
            self._server = _Server((host, port), registry, {"/healthz": unhealthy, "/readyz": unready})
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"metrics need an address to listen on, got {host}:{port} ({error}); choose another port, or 0 for any",
                key="metrics.port",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port that it listens on."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening; a request that is being answered is not waited for."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Called(Collector):
    """A collector that is a function."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        return ()  # or the registry would collect while the process is not yet built


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], registry: CollectorRegistry, verdicts: dict[str, Callable[[], str]]
    ) -> None:
        self.registry = registry
        self.verdicts = verdicts
        self.watchers = threading.BoundedSemaphore(MAX_WATCHERS)
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS  # of each read
    server_version = "fedmb"
    sys_version = ""

    def do_GET(self) -> None:
        if not self.server.watchers.acquire(blocking=False):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many requests at once\n")
            return
        try:
            self._answer_for(self.path.partition("?")[0])
        finally:
            self.server.watchers.release()

    do_HEAD = do_GET  # noqa: N815  # as above

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's word
        logger.debug("request answered line=%r", format % args)

    def _answer_for(self, path: str) -> None:
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(self.server.registry), content_type)
        elif (verdict := self.server.verdicts.get(path)) is not None:
            reason = verdict()
            status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
            self._answer(status, f"{reason or 'ok'}\n".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"/metrics, /healthz or /readyz\n")

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
