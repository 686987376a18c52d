"""What `fedmb server` asks its SuperLink on loopback over Flower's control API: how a run stands, and to end one.

Flower's own commands ask the same, each by a process that imports for a second while clients wait.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, NamedTuple

from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse, StopRunRequest

from fedmb.access.knock import posted
from fedmb.errors import FedmbError

if TYPE_CHECKING:
    from google.protobuf.message import Message

LIST, STOP = "/v1/control/list-runs", "/v1/control/stop-run"
ANSWER_SECONDS = 10.0  # a SuperLink answers within some ms; a machine may be busy


class RunStatus(NamedTuple):
    """How a run stands."""

    text: str
    """As `flwr ls` writes it: starting, running, finished:completed, finished:failed."""
    details: str
    """What it ended with; empty where Flower has nothing to tell."""


def run_status(address: str, run_id: int) -> RunStatus:
    """How a run stands.

    Args:
        address: `host:port` of the SuperLink.
        run_id: Flower's.

    Raises:
        OSError, http.client.HTTPException: nobody answers there.
        FedmbError: the SuperLink does not know the run.
    """
    data = _asked(address, LIST, ListRunsRequest(run_id=run_id))
    status = ListRunsResponse.FromString(data).run_dict[run_id].status
    return RunStatus(f"{status.status}:{status.sub_status}".rstrip(":"), status.details)


def stop_run(address: str, run_id: int) -> None:
    """Let the SuperLink hand out none of a run's messages any more.

    Raises:
        OSError, http.client.HTTPException, FedmbError: as `run_status`, or the run has ended.
    """
    _asked(address, STOP, StopRunRequest(run_id=run_id))


def _asked(address: str, path: str, request: Message) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    status, data = posted(connection, path, request.SerializeToString())
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise FedmbError(
            f"a SuperLink must answer {path}, it says {status}: {data[:200].decode(errors='replace')}; read "
            "superlink.log"
        )
    return data
