"""What the ServerApp of a run says, as the SuperLink passes it on: what `flwr log` shows, without its process."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from flwr.proto.control_pb2 import StreamLogsRequest, StreamLogsResponse

from fedmb.access.knock import MEDIA_TYPE

if TYPE_CHECKING:
    from typing import TextIO

PATH = "/v1/control/stream-logs"
CONNECT_SECONDS = 10.0  # to a SuperLink on loopback that has just answered
LENGTH_BYTES = 4  # before each message of a stream, big-endian
STREAM = "application/flower-protobuf-stream"

log = logging.getLogger(__name__)


class RunLog:
    """Writes a run's words to a text stream, from a thread of its own, until the run is over or the SuperLink gone.

    Args:
        address: `host:port` of the SuperLink.
        run_id: Flower's.
        output: where the words go.
        after: begin behind the words of this moment, as `latest` tells.
    """

    def __init__(self, address: str, run_id: int, output: TextIO, *, after: float = 0.0) -> None:
        self.latest = after
        """When the last words were said, in seconds since 1970 by the SuperLink's clock."""
        self._output = output
        self._request = StreamLogsRequest(run_id=run_id, after_timestamp=after)
        self._connection = http.client.HTTPConnection(address, timeout=CONNECT_SECONDS)
        self._socket: socket.socket | None = None
        with suppress(OSError):  # then there is nothing to follow
            self._connection.connect()
            self._socket = self._connection.sock
        self._thread = threading.Thread(target=self._follow, name="fedmb-run-log", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether no more words will come."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait until no more words will come, so long at most."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Follow no longer."""
        if self._socket is not None:
            with suppress(OSError):  # it may be closed already
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _follow(self) -> None:
        if self._socket is None:
            return
        try:
            headers = {"content-type": MEDIA_TYPE, "accept": STREAM}
            self._connection.request("POST", PATH, self._request.SerializeToString(), headers)
            answer = self._connection.getresponse()
            if answer.status >= http.HTTPStatus.BAD_REQUEST:
                log.warning("run not followed status=%d said=%r", answer.status, answer.read(200))
                return
            self._socket.settimeout(None)  # a round may take as long as it likes
            while len(size := answer.read(LENGTH_BYTES)) == LENGTH_BYTES:
                told = StreamLogsResponse.FromString(answer.read(int.from_bytes(size, "big")))
                self._output.write(told.log_output)
                self._output.flush()
                self.latest = max(self.latest, told.latest_timestamp)
        except (OSError, http.client.HTTPException):
            pass  # the SuperLink has gone, or we have
        except Exception:
            log.exception("run not followed any more")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
