# The happy path runs against a real registry (tests/apicurio.py); the gateway is a part that fails on purpose.
import base64
import json
import socket
import time

import pytest
from registry_gateway import gateway, self_signed

from fedmb.errors import AccessDenied, DecodeError, SettingsError, Unreachable
from fedmb.ingest.schema_registry import MAX_ANSWER_BYTES, UNKNOWN_SECONDS, RegistryAccess, SchemaRegistry

AVRO = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "y", "type": "int"}]})
PROTO = 'syntax = "proto3";\nmessage Row {\n  int32 y = 1;\n}\n'


def client(url, **access):
    return SchemaRegistry(RegistryAccess(url=url, **access))


@pytest.mark.parametrize(("kind", "text"), [("AVRO", AVRO), ("PROTOBUF", PROTO)])
def test_a_registered_schema_is_found_under_its_id(registry, subject, kind, text):
    number = client(registry.url).register(subject, kind, text)

    found = client(registry.url + "/").schema(number)

    assert (found.id, found.kind, found.references) == (number, kind, ())
    assert found.text.split() == text.split()
    assert client(registry.url).register(subject, kind, text) == number


def test_a_schema_is_asked_for_once(registry, subject):
    with gateway(registry.url) as between:
        ours = client(between.url)
        number = ours.register(subject, "AVRO", AVRO)

        assert ours.schema(number) is ours.schema(number)
        assert between.questions == [f"POST /subjects/{subject}/versions", f"GET /schemas/ids/{number}"]


def test_what_a_schema_refers_to_comes_with_it(registry, subject):
    ours = client(registry.url)
    inner = 'syntax = "proto3";\nmessage Inner {\n  int32 z = 1;\n}\n'
    outer = 'syntax = "proto3";\nimport "inner.proto";\nmessage Row {\n  Inner inner = 1;\n}\n'
    ours.register("inner-" + subject, "PROTOBUF", inner)
    reference = {"name": "inner.proto", "subject": "inner-" + subject, "version": 1}
    content = {"schemaType": "PROTOBUF", "schema": outer, "references": [reference]}

    number = ours._asked("POST", f"/subjects/{subject}/versions", content)["id"]
    found = ours.schema(number)

    assert [name for name, _ in found.references] == ["inner.proto"]
    assert found.references[0][1].split() == inner.split()


def test_an_unknown_id_is_the_records_fault_and_asked_for_once_in_a_while(registry):
    now = [100.0]
    with gateway(registry.url) as between:
        ours = SchemaRegistry(RegistryAccess(url=between.url), clock=lambda: now[0])

        for _ in range(3):
            with pytest.raises(DecodeError, match="id 987654, which is not"):
                ours.schema(987654)
        assert len(between.questions) == 1
        now[0] += UNKNOWN_SECONDS
        with pytest.raises(DecodeError):
            ours.schema(987654)
        assert len(between.questions) == 2


def test_a_schema_that_the_registry_refuses_is_a_setting_to_mend(registry, subject):
    with pytest.raises(SettingsError, match=r"answers 4\d\d"):
        client(registry.url).register(subject, "AVRO", "{")


def test_a_registry_that_is_down_is_asked_again_later(registry, subject):
    number = client(registry.url).register(subject, "AVRO", AVRO)
    with gateway(registry.url) as between:
        ours, port = client(between.url), between.server_port
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))

        for url in (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{unheard.getsockname()[1]}"):
            with pytest.raises(Unreachable, match=f"{url} did not"):
                client(url).schema(number)
    with pytest.raises(Unreachable):
        ours.schema(number)
    with gateway(registry.url) as between:
        ours._port = between.server_port  # it is back

        assert ours.schema(number).kind == "AVRO"


def answers(status, content):
    return lambda _, say: say(status, content)


@pytest.mark.parametrize(
    "answer",
    [
        answers(200, b"<html>welcome</html>"),
        answers(200, b"[]"),
        answers(200, b"{}"),
        answers(200, b'{"schema": 7}'),
        answers(200, b'{"schema": "x", "references": [{"name": "a"}]}'),
        answers(200, b"[" * 100_000),
        answers(200, b" " * (MAX_ANSWER_BYTES + 1)),
        answers(404, b"<html>no such page</html>"),
        answers(404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        answers(500, b'{"error_code": 50001, "message": "store"}'),
        answers(503, b""),
        answers(302, b"{}"),
        answers(429, b'{"message": "slower"}'),
        lambda handler, _: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda handler, _: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
        lambda handler, _: handler.connection.shutdown(socket.SHUT_RDWR),
    ],
)
def test_nonsense_is_not_the_records_fault(answer):
    with gateway() as between:
        between.answer = answer

        with pytest.raises(Unreachable, match=between.url):
            client(between.url).schema(1)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_registry_that_drips_is_cut_off_in_time(head):
    def drip(handler, _):
        handler.wfile.write(head)
        while not handler.server.stopped.wait(0.05):
            handler.wfile.write(b"a")
            handler.wfile.flush()

    with gateway() as between:
        between.answer = drip
        start = time.monotonic()

        with pytest.raises(Unreachable):
            client(between.url, timeout_seconds=0.5).schema(1)
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_needs_a_human(status):
    with gateway() as between:
        between.answer = answers(status, b"{}")

        with pytest.raises(AccessDenied, match="check user and password_file"):
            client(between.url).schema(1)


def test_a_password_comes_from_its_file_and_goes_over_tls(registry, subject, tmp_path):
    certificate, key = self_signed(tmp_path)
    (tmp_path / "password").write_text("säsame\n")
    wanted = "Basic " + base64.b64encode("alice:säsame".encode()).decode()
    access = {"user": "alice", "password_file": str(tmp_path / "password"), "tls_ca": str(certificate)}

    with gateway(registry.url, authorization=wanted, certificate=(certificate, key)) as between:
        number = client(between.url, **access).register(subject, "AVRO", AVRO)

        assert client(between.url, **access).schema(number).kind == "AVRO"
        with pytest.raises(AccessDenied, match="who are you"):
            client(between.url, **access | {"user": "mallory"}).schema(number)
        with pytest.raises(AccessDenied, match="tls_ca"):
            client(between.url).schema(number)
        with pytest.raises(Unreachable):
            client(between.url.replace("https", "http")).schema(number)


@pytest.mark.parametrize(
    ("access", "rule"),
    [
        ({"url": "registry:8081"}, "https://registry"),
        ({"url": "ftp://registry"}, "https://registry"),
        ({"url": "http://r:99999"}, "https://registry"),
        ({"url": "http://r?a=b"}, "https://registry"),
        ({"url": "http://alice:secret@r"}, "no password"),
        ({"url": "http://r", "user": "alice"}, "go together"),
        ({"url": "http://r", "user": "alice", "password_file": "/nowhere"}, "over https"),
        ({"url": "https://r", "user": "alice", "password_file": "/nowhere"}, "/nowhere"),
        ({"url": "https://r", "tls_ca": "/nowhere"}, "tls_ca"),
    ],
)
def test_access_that_cannot_work_is_refused_at_once(access, rule):
    with pytest.raises(SettingsError, match=rule) as caught:
        client(**access)
    assert "secret" not in str(caught.value)
