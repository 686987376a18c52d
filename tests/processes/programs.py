"""fedmb's verbs as real processes on loopback, ended by their own ids."""

import datetime as dt
import ipaddress
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENT = ("--set", "rounds.deadline_medians=inf")
"""Rounds that wait for who starts again, however busy the machine is; the bits of a run depend on who took part."""
# Told to this suite, and no settings of a program, which refuses what it does not know.
OF_THE_SUITE = (
    "KAFKA",
    "REGISTRY",
    "KILLS",
    "FREEZE_SECONDS",
    "CUTS",
    "FUZZ",
    "FLOOD_SECONDS",
    "TEARS",
    "FEDERATION_KILLS",
)


def until(condition, seconds, what):
    """What `condition` answers once that is true; a deadline that passes is a failure that says what was awaited."""
    deadline, nap = time.monotonic() + seconds, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what()}"
        nap.wait(0.05)
    return found


def slowness():
    """How many times slower programs start than on an idle machine of two cores, 1 at least."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import flwr.clientapp"], env=environment(), check=True)
    return max(1.0, (time.monotonic() - began) / 0.6)  # 0.45 s there


def environment(**more):
    """What programs are started with."""
    own = {f"FEDMB_{name}" for name in OF_THE_SUITE}
    return {name: value for name, value in os.environ.items() if name not in own} | {"PYTHONPATH": str(ROOT)} | more


def parent(process):
    """Id of the process that it is a child of."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


class Program:
    """`fedmb ARGUMENTS` in the folder `place`, with `more` in its environment, its output in files there."""

    path = str(ROOT)
    """Where Python looks for modules."""

    def __init__(self, place, name, *arguments, **more):
        self.files = [place / f"{name}.{part}" for part in ("out", "err")]
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedmb", *map(str, arguments)],
                cwd=place,
                env=environment(**more) | {"PYTHONPATH": self.path},
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
            )

    @property
    def output(self):
        return self.files[0].read_text()

    @property
    def log(self):
        return self.files[1].read_text()

    def logged(self, text, seconds=240):
        """The rest of the first log line that holds `text`, once there is one."""

        def rest():
            assert self.process.poll() is None or text in self.log, f"ended with {self.process.returncode}: {self.log}"
            return self.log.partition(text)[2].partition("\n") if text in self.log else None

        return until(rest, seconds, lambda: f"{text!r} in {self.log}")[0]

    def ended(self, seconds=240):
        """Exit code, once the program has ended."""
        until(lambda: self.process.poll() is not None, seconds, lambda: f"end of {self.process.args}: {self.log}")
        return self.process.returncode

    def send(self, number):
        os.kill(self.process.pid, number)

    def below(self):
        """Ids and command lines of every process that this one started, directly or not."""
        parents = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal():
                    parents[int(entry.name)] = parent(entry.name)
            except OSError:
                continue
        found = {self.process.pid}
        while more := {process for process, parent in parents.items() if parent in found} - found:
            found |= more
        return {process: command_line(process) for process in found - {self.process.pid}}

    def running(self, name):
        """Id of the one process below that runs the program `name`, and of no keeper of it."""
        (process,) = (
            number for number, line in self.below().items() if f"/{name} " in line and "keeper.py" not in line
        )
        return process

    def forking(self, line):
        """Id of the one process below that runs `line` and is not a fork of another one that does."""
        found = {number for number, words in self.below().items() if line in words and "keeper.py" not in words}
        (process,) = (one for one in found if parent(one) not in found)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def command_line(process):
    """Empty when the process is gone or a zombie."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def asked(metrics, path):
    """Status and text of another path beside the URL of a process's metrics."""
    try:
        with urllib.request.urlopen(metrics.replace("/metrics", path), timeout=10) as answer:  # noqa: S310  # our own, on loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures_at(metrics):
    """Figures of a process by name, those with labels added up."""
    found = {}
    for line in asked(metrics, "/metrics")[1].splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def certificates(place):
    """Paths of a certificate for 127.0.0.1, its key, and the authority that signed it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def builder(subject, key):
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("fedmb test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    signer, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = builder("fedmb test authority", signer).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    server = builder("localhost", own).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]),
        critical=False,
    )
    pem = serialization.Encoding.PEM
    contents = {
        "server.crt": server.sign(signer, hashes.SHA256()).public_bytes(pem),
        "server.key": own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        "authority.crt": authority.sign(signer, hashes.SHA256()).public_bytes(pem),
    }
    for file, content in contents.items():
        (place / file).touch(mode=0o600)
        (place / file).write_bytes(content)
    return [place / file for file in contents]
