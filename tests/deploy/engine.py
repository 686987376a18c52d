"""A Docker engine and base images where no image can be pulled: Debian's packages, its debootstrap, and what is here.

What images build upon is named by build arguments; these stand in for the public ones:

- `fedmb-base-python`: a minimal Debian with python3 and pip
- `fedmb-base-torch`: the same with the torch of this Python's environment, where there is one
- `fedmb-kafka`: a minimal Debian with a JRE, and Kafka's jars from Maven Central (tests/kafka_broker.py)
- `fedmb-prometheus`: Debian's Prometheus; Grafana is in no Debian, so nothing here runs it

Each is made once and kept; `docker image rm` makes room.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Self

from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kafka_broker import jars

SUITE = "bookworm"
MIRROR = os.environ.get("COMPOSE_TEST_DEBIAN", "http://deb.debian.org/debian")
PACKAGES = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "docker-compose": "docker-compose",
    "debootstrap": "debootstrap",
}
ENGINE_SECONDS = 60.0
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")  # those that this machine trusts, such as a proxy's
LEFT_OUT = {"triton"}  # a gigabyte for torch.compile, which nothing here calls
ROOT_ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"PIP_CERT={AUTHORITIES}")


def docker(*arguments: str, check: bool = True) -> str:
    """What `docker ARGUMENTS` says."""
    done = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout.strip()


class Engine:
    """The engine that runs here, or one of our own that ends with this."""

    def __init__(self) -> None:
        self._own: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
        if missing:
            apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in ([*apt, "update"], [*apt, "install", *missing]):
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        if not self._answers():
            log = Path(tempfile.gettempdir(), "fedmb-dockerd.log").open("ab")
            self._own = subprocess.Popen(["dockerd"], stdout=log, stderr=log, start_new_session=True)
            deadline = time.monotonic() + ENGINE_SECONDS
            while not self._answers():
                if self._own.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dockerd must answer within {ENGINE_SECONDS} s; read {log.name}")
                time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.terminate()
            self._own.wait(60)

    @staticmethod
    def _answers() -> bool:
        return not subprocess.run(["docker", "info"], check=False, capture_output=True).returncode


def bases() -> dict[str, str]:
    """Build arguments and images by the variable that names them, each made if it is not there."""
    if not _is_there("fedmb-base-python"):
        _debian("fedmb-base-python", "python3,python3-venv,ca-certificates")
    if not _is_there("fedmb-base-torch"):
        _with_torch("fedmb-base-torch", "fedmb-base-python")
    if not _is_there("fedmb-base-java"):
        _debian("fedmb-base-java", "openjdk-17-jre-headless")
    if not _is_there("fedmb-kafka"):
        _with_jars("fedmb-kafka", "fedmb-base-java")
    if not _is_there("fedmb-prometheus"):
        _with_prometheus("fedmb-prometheus", "fedmb-base-python")
    return {
        "PROMETHEUS_IMAGE": "fedmb-prometheus",
        "PYTHON_IMAGE": "fedmb-base-python",
        "TORCH_BASE_IMAGE": "fedmb-base-torch",
        "KAFKA_IMAGE": "fedmb-kafka",
    }


def _is_there(image: str) -> bool:
    return bool(docker("image", "ls", "-q", image))


def _debian(image: str, packages: str) -> None:
    """A minimal Debian with `packages`, which trusts whom this machine trusts."""
    with tempfile.TemporaryDirectory(prefix="fedmb-debian-") as made:
        root = Path(made, "root")
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(root), MIRROR]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"debootstrap: {(done.stdout + done.stderr)[-3000:]}")
        if AUTHORITIES.is_file():
            inside = root / AUTHORITIES.relative_to("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(AUTHORITIES, inside)
        for rest in (root / "var/cache/apt/archives", root / "var/lib/apt/lists"):
            shutil.rmtree(rest, ignore_errors=True)
        _imported(image, lambda tar: tar.add(root, arcname="."))


def _imported(image: str, fill) -> None:
    changes = [word for one in ROOT_ENV for word in ("--change", f"ENV {one}")]
    with subprocess.Popen(
        ["docker", "import", *changes, "-", image], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as importing:
        with tarfile.open(fileobj=importing.stdin, mode="w|") as tar:
            fill(tar)
        importing.stdin.close()
    if importing.returncode:
        raise RuntimeError(f"docker import {image} ended with {importing.returncode}")


def _built(image: str, dockerfile: str, fill) -> None:
    """An image of a context that is streamed: nothing is copied on this disk first."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    command = ["docker", "build", "-q", "-t", image, "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as building:
        with tarfile.open(fileobj=building.stdin, mode="w|") as tar:
            content = dockerfile.encode()
            about = tarfile.TarInfo("Dockerfile")
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
            fill(tar)
        building.stdin.close()
    if building.returncode:
        raise RuntimeError(f"docker build {image} ended with {building.returncode}")


def _with_torch(image: str, base: str) -> None:
    """The base with the torch that this Python has; without one, the base itself, whose images fetch it."""
    found: dict[str, importlib.metadata.Distribution] = {}
    _closure(Requirement("torch"), found, set())
    if not found:
        docker("tag", base, image)
        return
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    inside = docker("run", "--rm", base, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    if inside != version:
        raise RuntimeError(f"this Python's torch must fit the base's Python, got {version} and {inside}; use {inside}")

    def fill(tar: tarfile.TarFile) -> None:
        for one in found.values():
            for file in one.files or ():
                path = Path(one.locate_file(file))
                if path.is_file() and ".." not in file.parts and path.suffix != ".pyc":
                    tar.add(path, arcname=f"packages/{file}")

    _built(image, f"FROM {base}\nCOPY packages /usr/local/lib/python{version}/dist-packages\n", fill)


def _closure(wanted: Requirement, found: dict[str, importlib.metadata.Distribution], done: set[str]) -> None:
    """`wanted`, with its extras, and all that it needs, by name."""
    name = re.sub(r"[-_.]+", "-", wanted.name).lower()
    try:
        one = importlib.metadata.distribution(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return
    if name not in LEFT_OUT:
        found[name] = one
    for extra in ("", *wanted.extras):
        if (key := f"{name}[{extra}]") not in done:
            done.add(key)
            for needed in map(Requirement, one.requires or ()):
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    _closure(needed, found, done)


def _with_jars(image: str, base: str) -> None:
    libs = jars()
    _built(image, f"FROM {base}\nCOPY libs /opt/kafka/libs\n", lambda tar: tar.add(libs, arcname="libs"))


def _with_prometheus(image: str, base: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fedmb-prometheus-") as made:
        subprocess.run(["apt-get", "-q", "download", "prometheus"], cwd=made, check=True, capture_output=True)
        (package,) = Path(made).glob("*.deb")
        subprocess.run(["dpkg", "-x", str(package), f"{made}/files"], check=True)
        steps = (
            f"FROM {base}",
            "COPY bin /usr/bin",
            "RUN install -d -o 65534 -g 65534 /prometheus",
            "USER 65534:65534",
            'ENTRYPOINT ["prometheus"]',
        )
        _built(image, "\n".join(steps) + "\n", lambda tar: tar.add(f"{made}/files/usr/bin", arcname="bin"))


if __name__ == "__main__":
    with Engine():
        print(bases())
