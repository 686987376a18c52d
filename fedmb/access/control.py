"""What `fedmb server` asks its SuperLink on loopback over Flower's control API: to start or end a run, how it stands.

Flower's own commands ask the same, each by a process that imports for a second while clients wait.
"""

from __future__ import annotations

import hashlib
import http.client
from typing import TYPE_CHECKING, NamedTuple

from flwr.proto.control_pb2 import (
    ListRunsRequest,
    ListRunsResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar

from fedmb.access.knock import posted
from fedmb.errors import FedmbError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from google.protobuf.message import Message

LIST, START, STOP = "/v1/control/list-runs", "/v1/control/start-run", "/v1/control/stop-run"
ANSWER_SECONDS = 10.0  # a SuperLink answers within some ms; a machine may be busy
START_SECONDS = 60.0  # it writes the app to its database first


class RunStatus(NamedTuple):
    """How a run stands."""

    text: str
    """As `flwr ls` writes it: starting, running, finished:completed, finished:failed."""
    details: str
    """What it ended with; empty where Flower has nothing to tell."""


def start_run(address: str, app: Path, config: Mapping[str, str]) -> int:
    """Let the SuperLink start a run; answers Flower's id of it.

    Args:
        address: `host:port` of the SuperLink.
        app: directory of a Flower app.
        config: words of the app's configuration in place of its own.

    Raises:
        OSError, http.client.HTTPException: nobody answers there.
        SettingsError: Flower takes no such app.
        FedmbError: the SuperLink refuses the app.
    """
    from flwr.cli.build import build_fab_from_disk

    try:
        bundle = build_fab_from_disk(app)
    except ValueError as error:
        raise SettingsError(f"Flower must take the app in {app}, it says: {error}; mend its pyproject.toml") from error
    fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
    words = {key: Scalar(string=value) for key, value in config.items()}
    data = _asked(address, START, StartRunRequest(fab=fab, override_config=words), START_SECONDS)
    answer = StartRunResponse.FromString(data)
    if not answer.HasField("run_id"):
        raise FedmbError(f"a SuperLink must start a run, it says: {answer.note or 'nothing'}; read superlink.log")
    return int(answer.run_id)


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


def _asked(address: str, path: str, request: Message, seconds: float = ANSWER_SECONDS) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=seconds)
    status, data = posted(connection, path, request.SerializeToString())
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise FedmbError(
            f"a SuperLink must answer {path}, it says {status}: {data[:200].decode(errors='replace')}; read "
            "superlink.log"
        )
    return data
