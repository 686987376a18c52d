"""What a SuperLink passes on of a run's words; tests/processes has real ones do so."""

import io
import socket
import threading

import pytest
from flwr.proto.control_pb2 import StreamLogsRequest, StreamLogsResponse
from hearing import Hearing

from fedmb.access.run_log import PATH, RunLog

RUN = 2**63 + 5
PATIENCE = 30.0  # seconds


def frames(*words):
    told = [StreamLogsResponse(log_output=word, latest_timestamp=5.0 + at) for at, word in enumerate(words)]
    return b"".join(one.ByteSize().to_bytes(4, "big") + one.SerializeToString() for one in told)


def followed(server, after=0.0):
    output = io.StringIO()
    with RunLog(f"127.0.0.1:{server.port}", RUN, output, after=after) as found:
        found.wait(PATIENCE)
        assert found.is_over
    server.close()
    return output.getvalue(), found.latest


def test_words_come_in_order_and_as_they_are():
    server = Hearing(200, answer=frames("a line\n", "half ", "é\n"))

    assert followed(server, after=2.5) == ("a line\nhalf é\n", 7.0)
    asked = StreamLogsRequest.FromString(server.body)
    assert (server.path, asked.run_id, asked.after_timestamp) == (PATH, RUN, 2.5)


@pytest.mark.parametrize("cut", [1, 3, 4, 9])
def test_a_stream_that_breaks_off_ends_behind_the_last_whole_message(cut, caplog):
    whole = frames("a line\n")
    server = Hearing(200, answer=whole + frames("never\n")[:cut])

    assert followed(server)[0] == "a line\n"


def test_a_refusal_is_warned_of(caplog):
    assert followed(Hearing(404, answer=b"no such run")) == ("", 0.0)
    assert "status=404 said=b'no such run'" in caplog.text


def test_nobody_there_says_nothing():
    with RunLog("127.0.0.1:9", RUN, io.StringIO()) as found:
        found.wait(PATIENCE)
        assert found.is_over


def test_closing_ends_a_stream_that_has_nothing_to_say():
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = threading.Event()

        def hear():
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                told.set()
                while connection.recv(65_536):  # until the other side has gone
                    pass

        thread = threading.Thread(target=hear)
        thread.start()
        output = io.StringIO()
        with RunLog(f"127.0.0.1:{server.getsockname()[1]}", RUN, output) as found:
            assert told.wait(PATIENCE)
            found.wait(0.1)
            assert not found.is_over
        thread.join(PATIENCE)

    assert found.is_over
    assert not thread.is_alive()
