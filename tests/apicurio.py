"""Apicurio Registry, which speaks the schema registry's protocol, on loopback: for the tests of the registry codecs.

Aiven's Karapace is not on PyPI, Confluent's registry not on Maven Central; Apicurio is there whole (109 MB, fetched
once into the cache; later versions than 3.0 need Java 21). It keeps its schemas in memory, and is up in about 5 s.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kafka_broker import free_port, install_missing

ARTIFACT, VERSION = "apicurio-registry-app", "3.0.9"
START_SECONDS = 120.0  # 5 s on two idle cores; a machine that builds beside it is slower


class RegistryMissing(RuntimeError):  # noqa: N818  # the condition's name
    """No registry can be had here; a suite that wants one fails, it does not skip."""


def unpacked() -> Path:
    """Directory of the server, fetched on first use.

    Raises:
        RegistryMissing: it cannot be fetched.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmb"
    directory = cache / f"{ARTIFACT}-{VERSION}"
    install_missing("java")
    if not directory.is_dir():
        install_missing("mvn")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as fetched:
            artifact = f"-Dartifact=io.apicurio:{ARTIFACT}:{VERSION}:tar.gz:all"
            command = ["mvn", "-q", "-B", "dependency:copy", artifact, f"-DoutputDirectory={fetched}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RegistryMissing(f"{ARTIFACT} must come from Maven Central, mvn says: {done.stdout[-2000:]}")
            with tarfile.open(next(Path(fetched).glob("*.tar.gz"))) as archive:
                archive.extractall(Path(fetched, "server"), filter="data")
            with contextlib.suppress(OSError):  # another process was faster
                Path(fetched, "server").rename(directory)
    return directory


@dataclass
class ApicurioRegistry:
    """A registry of this process's own."""

    port: int = field(default_factory=free_port)
    """A restarted registry keeps it, and has forgotten its schemas."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Root of the interface that is Confluent's."""
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def __enter__(self) -> Self:
        """Start, and wait until it answers.

        Raises:
            RegistryMissing: it ended or did not answer in time; its log says why.
        """
        java = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}"]
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(
                [*java, *options, "-jar", f"{ARTIFACT}-{VERSION}-runner.jar"],
                cwd=unpacked(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests, who then stop it
            )
            deadline = time.monotonic() + START_SECONDS
            while not self._answers():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    tail = log.read()[-3000:].decode(errors="replace")
                    self.__exit__()
                    raise RegistryMissing(f"the registry must answer within {START_SECONDS} s; {tail}")
                time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        """SIGKILL: nothing of it is worth keeping."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=1.0) as answer:  # noqa: S310  # ours
                return bool(answer.status == 200)
        except OSError:
            return False


@dataclass(frozen=True)
class RunningRegistry:
    """A registry that somebody else runs, named by FEDMB_REGISTRY."""

    url: str
