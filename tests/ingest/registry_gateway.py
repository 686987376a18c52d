"""What stands before a registry and fails: it asks for a password, speaks TLS, or answers as it is told to."""

from __future__ import annotations

import datetime as dt
import http.client
import http.server
import ipaddress
import ssl
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def self_signed(folder):
    """Paths of a certificate for 127.0.0.1, which is its own authority, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "registry.pem", folder / "registry.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    unlocked = serialization.NoEncryption()
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption_algorithm=unlocked)
    )
    return paths


class Gateway(http.server.ThreadingHTTPServer):
    """Passes questions on to a registry, as a company's proxy does; `answer` makes it a failing part instead.

    Args:
        upstream: URL of the registry behind it.
        authorization: what the header of that name must say, if anything.
        certificate: paths for TLS.
    """

    daemon_threads = True

    def __init__(self, upstream, *, authorization=None, certificate=None):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.upstream, self.authorization, self.questions, self.answer = urlsplit(upstream), authorization, [], None
        self.stopped = threading.Event()
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is what the tests are about."""


@contextmanager
def gateway(upstream="http://127.0.0.1:9", **settings):
    """A running gateway."""
    with Gateway(upstream, **settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()


class _Passing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.questions.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.authorization and self.headers.get("Authorization") != self.server.authorization:
            return self._say(401, b'{"error_code": 40101, "message": "who are you?"}')
        if self.server.answer is not None:
            return self.server.answer(self, self._say)
        to = self.server.upstream
        behind = http.client.HTTPConnection(to.hostname, to.port, timeout=60)
        behind.request(self.command, to.path + self.path, body or None, {"Content-Type": "application/json"})
        found = behind.getresponse()
        return self._say(found.status, found.read())

    do_POST = do_GET  # noqa: N815  # the server's name for it

    def _say(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Nobody reads it."""
