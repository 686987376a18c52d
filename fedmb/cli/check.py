"""`fedmb check`: is this machine ready?"""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from fedmb.cli.findings import Finding, Status, print_json, print_table

PYTHON = (3, 11)  # tomllib, StrEnum and Flower 1.41 start there
PORTS = {8000: "flower-superlink", 9094: "flower-supernode"}  # Flower 1.41's defaults
SCARCE_BYTES = 2 * 10**9  # below it, logs and checkpoints of a longer run may not fit
EXTRAS = {
    "fast": "a Kafka driver several times faster, driver=confluent",
    "compression": "lz4 and zstd in topics",
    "arrow": "Arrow records",
    "avro": "Avro records",
    "protobuf": "Protobuf records",
}
"""What the extras that streams may want are for."""
LEAST_BYTES = 100 * 10**6  # the demo's run directory takes a few of these 100 MB
PROBE_SECONDS = 120  # the first import of a CUDA build of torch reads gigabytes
CUDA_PROBE = (
    "import torch; n = torch.cuda.device_count(); "
    "print('; '.join(torch.cuda.get_device_name(i) for i in range(n)) or 'CPU')"
)


def check(*, json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Look whether this machine has what fedmb needs; fails when something required is missing."""
    from fedmb.exit_codes import ExitCode

    found = list(findings())
    failed = [finding.name for finding in found if finding.status is Status.FAILED]
    if json:
        print_json(found)
    else:
        print_table(found)
    if failed:
        raise typer.Exit(ExitCode.CHECK)


def findings() -> Iterator[Finding]:
    """Every check, in the order in which a person would put things right."""
    yield python_version()
    yield from requirements()
    yield torch_device()
    yield crc32c_wheel()
    yield from extras()
    yield process_folders()
    yield from executables()
    yield from (port_is_free(port, user) for port, user in PORTS.items())
    yield disk_space(Path.cwd())
    yield processors()


def python_version() -> Finding:
    """Python is new enough."""
    wanted = ".".join(map(str, PYTHON))
    if sys.version_info >= PYTHON:
        return Finding("python", Status.OK, platform.python_version())
    return Finding("python", Status.FAILED, platform.python_version(), f"install Python {wanted} or newer")


def requirements() -> Iterator[Finding]:
    """Every package that fedmb requires is installed in a version it was made for; nothing is imported."""
    from packaging.requirements import Requirement

    try:
        version, lines = importlib.metadata.version("fedmb"), importlib.metadata.requires("fedmb") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("fedmb", Status.WARNING, "not installed", "install it with pip to have its requirements checked")
        return
    yield Finding("fedmb", Status.OK, version)
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _requirement(requirement.name, f"{requirement.specifier}")


def _requirement(name: str, specifier: str) -> Finding:
    """One required package against its range."""
    from packaging.specifiers import SpecifierSet

    wanted = f"pip install '{name}{specifier}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, Status.FAILED, "not installed", wanted)
    if SpecifierSet(specifier).contains(version, prereleases=True):
        return Finding(name, Status.OK, version)
    return Finding(name, Status.FAILED, f"{version}, outside {specifier}", wanted)


def torch_device(python: str = sys.executable, probe: str = CUDA_PROBE) -> Finding:
    """What torch computes on. Asked in a process of its own: a broken CUDA build may take its process down."""
    try:
        answer = subprocess.run(  # noqa: S603  # this interpreter, a constant text
            [python, "-c", probe], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("device", Status.FAILED, f"torch gave no answer: {error}", "install torch again")
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        return Finding("device", Status.FAILED, f"torch cannot be imported: {lines[-1]}", "install torch again")
    return Finding("device", Status.OK, answer.stdout.strip())


def crc32c_wheel() -> Finding:
    """CRC-32C runs in C; in Python, reading a Kafka topic is 25 times slower."""
    spec = find_spec("crc32c")
    folders = (spec and spec.submodule_search_locations) or []
    if any(found for folder in folders for found in Path(folder).glob("_crc32c*.so")):
        return Finding("crc32c in C", Status.OK, "compiled")
    return Finding("crc32c in C", Status.WARNING, "missing", "pip install --only-binary crc32c crc32c")


def extras() -> Iterator[Finding]:
    """Which extras of streams are installed; none is required, one in a wrong version is a warning."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("fedmb") or []
    except importlib.metadata.PackageNotFoundError:
        return  # `requirements` says so
    for extra, use in EXTRAS.items():
        wanted = [one for one in map(Requirement, lines) if one.marker and one.marker.evaluate({"extra": extra})]
        if not wanted:
            continue  # installed from an older source
        found = [_requirement(one.name, f"{one.specifier}") for one in wanted]
        advice = f"pip install 'fedmb[{extra}]' for {use}"
        if missing := [one.name for one in found if one.found == "not installed"]:
            yield Finding(f"[{extra}]", Status.OK, f"without {', '.join(missing)}", advice)
        else:
            is_right = all(one.status is Status.OK for one in found)
            status, advice = (Status.OK, "") if is_right else (Status.WARNING, advice)
            yield Finding(f"[{extra}]", status, ", ".join(f"{one.name} {one.found}" for one in found), advice)


def process_folders() -> Finding:
    """The folders that `fedmb server`, `client`, `stream` and `new` start from."""
    from fedmb.errors import FedmbError
    from fedmb.launch import bundle

    try:
        return Finding("process folders", Status.OK, str(bundle()))
    except FedmbError as error:
        sentence, _, advice = str(error).rpartition("; ")
        return Finding("process folders", Status.FAILED, sentence, advice)


def executables(names: tuple[str, ...] = ("flower-superlink", "flower-supernode")) -> Iterator[Finding]:
    """Flower's programs stand beside this Python."""
    beside = Path(sys.executable).parent
    for name in names:
        place = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
        if place:
            yield Finding(name, Status.OK, place)
        else:
            yield Finding(name, Status.FAILED, f"not in {beside} nor on PATH", "install flwr again")


def port_is_free(port: int, user: str) -> Finding:
    """Nothing listens on Flower's default port of this machine."""
    name = f"port {port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left counts as free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            advice = f"stop what listens there or give {user} another port"
            return Finding(name, Status.WARNING, f"taken ({error.strerror})", advice)
    return Finding(name, Status.OK, f"free for {user}")


def disk_space(place: Path) -> Finding:
    """Room for run directories, logs and checkpoints at `place`."""
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free in {place}"
    if free >= SCARCE_BYTES:
        return Finding("disk", Status.OK, found)
    status = Status.WARNING if free >= LEAST_BYTES else Status.FAILED
    return Finding("disk", status, found, f"have {SCARCE_BYTES / 1e9:.0f} GB free, or run elsewhere")


def processors() -> Finding:
    """Processors this process may use, and a limit on threads if the environment sets one."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    return Finding("processors", Status.OK, f"{usable}" + (f", OMP_NUM_THREADS={limit}" if limit else ""))
