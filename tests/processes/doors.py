"""Processes of the nodes' door on loopback, without a SuperLink behind; and keys for them."""

import contextlib
import datetime as dt
import http.client
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from kafka_broker import free_port
from programs import ROOT, environment, until

from fedmb.access.door_plan import DoorPlan
from fedmb.access.new_keys import make_node, make_server


def make_keys(folder, nodes=("ward",)):
    """A server's keys in `folder`, and the nodes' in its folder `nodes`."""
    make_server(folder, ["localhost"])
    for name in nodes:
        make_node(folder / "nodes", name)
    return folder


def expire(folder):
    """Put an expired certificate in the place of the server's, signed by the same authority."""
    old = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    signer = load_pem_private_key((folder / "authority.key").read_bytes(), None)
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number)
    builder = builder.not_valid_before(now - dt.timedelta(days=9)).not_valid_after(now - dt.timedelta(days=2))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    (folder / "server.crt").write_bytes(builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM))


class DoorProcess:
    """`python -m fedmb.access.door_process` with the keys in a folder."""

    def __init__(self, place, keys, superlink="http://127.0.0.1:1", **limits):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        plan = DoorPlan(
            host="127.0.0.1",
            port=self.port,
            certificate=keys / "server.crt",
            key=keys / "server.key",
            node_keys=keys / "nodes",
            superlink=superlink,
            limits=limits,
        )
        file = place / f"door-{self.port}.json"
        file.write_text(plan.model_dump_json())
        self.log_file = file.with_suffix(".log")
        with self.log_file.open("wb") as log:
            command = [sys.executable, "-m", "fedmb.access.door_process", str(file)]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        until(self._is_open, 120, self.log_file.read_text)

    def _is_open(self):
        assert self.process.poll() is None, self.log_file.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def post(address, authority, path, headers, body=b""):
    """Status and content of an answer over TLS."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPSConnection(
        host, int(port), timeout=60, context=ssl.create_default_context(cafile=authority)
    )
    try:
        # The door would not have the rest of a large body; its answer has come.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def resident_bytes(process):
    """Memory that a process holds now."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {process} is gone")
