"""Apache Kafka itself, one node on loopback, for tests, benchmarks and `make kafka`.

The jars come from Maven Central (tests/kafka/pom.xml, 43 MB, once) into a cache; data lie in a temporary directory.
Where java or mvn is missing and this process may install packages, the distribution's are installed.

    python tests/kafka_broker.py --port 9092      # runs until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

POM = Path(__file__).parent / "kafka" / "pom.xml"
START_SECONDS = 60.0  # a broker is up in 2 s; a machine that builds beside it is slower
PACKAGES = {"java": ("openjdk-17-jre-headless", "default-jre-headless"), "mvn": ("maven",)}  # the first that there is
OLDEST_JAVA = 17  # of Kafka 4
CLUSTER_ID = "fedmb-on-loopback-4111"  # 22 characters, as Kafka's own ids have


class BrokerMissing(RuntimeError):  # noqa: N818  # the condition's name
    """No broker can be had here; a suite that wants one fails, it does not skip."""


def jars() -> Path:
    """Directory of Kafka's jars, fetched on first use; the pom's digest is its name.

    Raises:
        BrokerMissing: they cannot be fetched.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmb"
    directory = cache / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    install_missing("java")
    if not directory.is_dir():
        install_missing("mvn")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as fetched:
            command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
            command.append(f"-DoutputDirectory={fetched}/libs")
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise BrokerMissing(f"Kafka's jars must come from Maven Central, mvn says: {done.stdout[-2000:]}")
            with contextlib.suppress(OSError):  # another process was faster
                Path(fetched, "libs").rename(directory)
    return directory


def install_missing(program: str) -> None:
    """Have `program`, java (17 or newer) or mvn, from the distribution's packages where it is not there.

    Raises:
        BrokerMissing: it is not there, and this process cannot install it.
    """
    if shutil.which(program) and (program != "java" or java_version() >= OLDEST_JAVA):
        return
    way_out = "install Java 17 or newer and Maven, or set FEDMB_KAFKA=host:port"
    if not may_install():
        raise BrokerMissing(f"Apache Kafka needs {program}, which is missing or too old; {way_out}")
    apt("update")
    if not any(apt("install", package) for package in PACKAGES[program]):
        raise BrokerMissing(f"apt-get installs none of {', '.join(PACKAGES[program])}; {way_out}")


def java_version() -> int:
    """Of the java on PATH: 17 for 17.0.2, 8 for 1.8; 0 where it does not say."""
    found = re.search(r'version "(?:1\.)?(\d+)', _said_of_java(shutil.which("java") or ""))
    return int(found[1]) if found else 0


@functools.cache
def _said_of_java(java: str) -> str:
    return subprocess.run([java, "-version"], check=False, capture_output=True, text=True).stderr


def class_archive(libs: Path) -> Path | None:
    """Java's archive of what a broker loads, without which a start costs twice the CPU time; made at first use.

    None while another process makes it, and where this java cannot.
    """
    java = hashlib.sha256(_said_of_java(shutil.which("java") or "").encode()).hexdigest()[:12]
    archive = libs.with_name(f"{libs.name}-java-{java}.jsa")
    with libs.with_name(f"{archive.name}.lock").open("w") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not archive.exists():
            made = archive.with_suffix(f".{os.getpid()}")
            with KafkaBroker(java_options=(f"-XX:ArchiveClassesAtExit={made}",)) as broker:
                broker.end()
            made.touch()  # empty where this java has made none
            made.rename(archive)
    return archive if archive.exists() and archive.stat().st_size else None


def may_install() -> bool:
    """Whether this process may install the distribution's packages, by `apt`."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt(*words: str) -> bool:
    """Have apt-get do something; whether it did."""
    command = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120", *words]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return not subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=environment).returncode


def free_port() -> int:
    """A port of loopback that nobody listens on, nor soon will: the kernel gives away only those from 32768 on."""
    chance = random.SystemRandom()  # others may have seeded theirs
    while True:
        port = chance.randrange(10_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class KafkaBroker:
    """A broker of this process's own, which tests may kill, freeze and start again over the same data."""

    port: int = field(default_factory=free_port)
    """Of the plaintext listener; a restarted broker keeps it."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Lines of server.properties beyond the minimum, such as listeners with TLS or SASL."""
    advertised: str = ""
    """host:port that clients are told, such as a proxy's; the listener's own if empty."""
    listeners: Mapping[str, str] = field(default_factory=dict)
    """Further ones, security protocol by name, such as SASL_SSL; `ports` says where each listens."""
    scram: Mapping[str, str] = field(default_factory=dict)
    """Passwords by user, for SCRAM-SHA-256 and SCRAM-SHA-512."""
    java_options: tuple[str, ...] = ()
    """Of the broker's java, in place of those that use its class archive."""

    def __post_init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fedmb-kafka-"))
        self.ports = {name: free_port() for name in self.listeners}
        self._controller = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """Directory with a folder for each partition, TOPIC-NUMBER, and segments in it."""
        return self.directory / "data"

    @property
    def pid(self) -> int:
        """Of the running java."""
        assert self._process is not None, "the broker runs"
        return self._process.pid

    def start(self) -> Self:
        """Start, and wait until it answers.

        Raises:
            BrokerMissing: java is missing, or it ended or did not listen in time; its log says why.
        """
        libs = jars()
        properties = self.directory / "server.properties"
        archive = None if self.java_options else class_archive(libs)
        shared = [f"-XX:SharedArchiveFile={archive}"] if archive else []
        java = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*"]
        if not properties.exists():
            properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
            format_ = ["kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER_ID, "-c", str(properties)]
            for user, password in self.scram.items():
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    format_ += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
            done = subprocess.run(["java", *shared, *java, *format_], check=False, capture_output=True, text=True)
            if done.returncode:
                raise BrokerMissing(
                    f"the broker's directory must be formatted, got: {(done.stdout + done.stderr)[-2000:]}"
                )
        log = (self.directory / "broker.log").open("ab")
        # A group of its own: Ctrl-C in a terminal is for the tests, who then stop it.
        self._process = subprocess.Popen(
            ["java", *(self.java_options or shared), *java, "kafka.Kafka", str(properties)],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=self.directory,
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.directory / "broker.log").read_text(errors="replace")[-3000:]
                self.kill()
                raise BrokerMissing(f"the broker must listen on {self.port} within {START_SECONDS} s; {tail}")
            time.sleep(0.05)
        return self

    def end(self) -> None:
        """SIGTERM, and wait until it has ended; the data stay."""
        self._end_by(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; the data stay."""
        self._end_by(signal.SIGKILL)

    def _end_by(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP, until no thread runs any longer: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks, stopped = Path(f"/proc/{self.pid}/task"), False
        while not stopped:
            with contextlib.suppress(OSError):  # a thread ended meanwhile
                stopped = all(one.read_text().rpartition(") ")[2].startswith("T") for one in tasks.glob("*/stat"))

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _properties(self) -> dict[str, str]:
        internal = "share.coordinator.state.topic"
        further = "".join(f",{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **self.listeners}
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller}{further}",
            "advertised.listeners": f"PLAINTEXT://{self.advertised or self.address}{further}",
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller}",
            "log.dirs": str(self.data),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            f"{internal}.replication.factor": "1",
            f"{internal}.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker's registration must lapse before the restarted one may take its number (9 s by default).
            "broker.session.timeout.ms": "1500",
            "broker.heartbeat.interval.ms": "500",
            **self.settings,
        }


def listens(port: int) -> bool:
    """Whether somebody does, on loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Run a broker until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Apache Kafka on loopback, with data that end with it.")
    parser.add_argument("--port", type=int, default=9092)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with KafkaBroker(port=parser.parse_args().port) as broker:
            print(f"broker ready address={broker.address} pid={broker.pid} data={broker.data}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("broker stopped", file=sys.stderr)


if __name__ == "__main__":
    main()
