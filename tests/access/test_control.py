"""What a SuperLink is asked on loopback; tests/processes asks real ones."""

import pytest
from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse, StopRunRequest
from flwr.proto.run_pb2 import Run, RunStatus
from hearing import Hearing

from fedmb.access.control import LIST, STOP, run_status, stop_run
from fedmb.errors import FedmbError

RUN = 2**63 + 5  # Flower's ids fill 64 bits


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (RunStatus(status="running"), ("running", "")),
        (RunStatus(status="finished", sub_status="failed", details="none"), ("finished:failed", "none")),
    ],
)
def test_how_a_run_stands_is_told_as_flower_writes_it(told, expected):
    answer = ListRunsResponse(run_dict={RUN: Run(run_id=RUN, status=told)})
    server = Hearing(200, answer=answer.SerializeToString())

    found = run_status(f"127.0.0.1:{server.port}", RUN)

    server.close()
    assert found == expected
    assert server.path == LIST
    assert ListRunsRequest.FromString(server.body).run_id == RUN


def test_a_run_is_ended():
    server = Hearing(200)

    stop_run(f"127.0.0.1:{server.port}", RUN)

    server.close()
    assert server.path == STOP
    assert StopRunRequest.FromString(server.body).run_id == RUN


def test_a_refusal_is_an_error_with_what_was_said():
    server = Hearing(404, answer=b'{"code": 7}')

    with pytest.raises(FedmbError, match=r'must answer /v1/control/list-runs, it says 404: \{"code": 7\}'):
        run_status(f"127.0.0.1:{server.port}", RUN)

    server.close()


def test_nobody_there_is_pythons_own_error():
    with pytest.raises(OSError, match="refused"):
        run_status("127.0.0.1:9", RUN)
