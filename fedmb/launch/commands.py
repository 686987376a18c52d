"""Command lines and environment of Flower's programs.

Every command is a list, run without a shell. None holds a secret: any user of the machine can read command lines.
Settings travel as paths of TOML files, so no value meets the quoting rules of a shell or of Flower's own parser.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedmb.errors import FedmbError
from fedmb.federation.flower_programs import SUBMODULES
from fedmb.launch.folders import bundle

if TYPE_CHECKING:
    from fedmb.launch.endpoint import Server

PROGRAMS = "bin"  # folder of our starters in Flower's directory
_LONGEST_FIRST_LINE = 127  # bytes that older Linux kernels read of one
# Flower's 1.0 s costs up to a second at every message. 0.05 s would save 75 ms of that, and keep a fifth of a core busy
# in a server that waits with two clients.
TASK_POLL_SECONDS = "0.2"


def executable(name: str) -> str:
    """Path of one of Flower's programs: the one beside this Python first, since another may be of another version.

    Raises:
        FedmbError: there is none.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise FedmbError(
            f"{name} must stand beside {sys.executable} or on the PATH, got neither; install flwr with this Python"
        )
    return found


def environment(home: Path, programs: Path | None = None) -> dict[str, str]:
    """This process's environment, without what Flower would do over the network unasked.

    Args:
        home: Flower's directory; apps and its configuration go there and not into the user's home.
        programs: a folder whose programs are started in place of Flower's of the same name.
    """
    beside = str(Path(executable("flower-superlink")).parent)
    first = [] if programs is None else [str(programs)]
    return os.environ | {
        # Flower starts its other programs by bare name; those that `put_programs` made come before its own.
        "PATH": os.pathsep.join([*first, str(home / PROGRAMS), beside, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # Without it every run resolves the app's dependencies from an index and builds a virtual environment.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", TASK_POLL_SECONDS),
        # Flower's INFO lines, coloured even in files, would bury fedmb's own, which tell the same.
        "FLWR_LOG_LEVEL": os.environ.get("FLWR_LOG_LEVEL", "WARNING"),
        "PYTHONPATH": os.pathsep.join(_import_path()),
        "PYTHONUNBUFFERED": "1",  # a log line is read while its process still runs
    }


def put_programs(home: Path) -> None:
    """Make starters of Flower's programs that import half as much (`fedmb.federation.flower_programs`).

    Where this Python's path cannot stand in a script's first line, none is made, and Flower's own are run.

    Args:
        home: as in `environment`.
    """
    line = f"#!{sys.executable} -P"
    if " " in sys.executable or len(line) > _LONGEST_FIRST_LINE:
        return
    place = home / PROGRAMS
    place.mkdir(exist_ok=True)
    for name in SUBMODULES:
        script = place / name
        script.write_text(
            f"{line}\nimport sys\n\nfrom fedmb.federation.flower_programs import program\n\n"
            f'sys.exit(program("{name}")())\n'
        )
        script.chmod(0o755)


def starter(home: Path, name: str) -> str:
    """Path of what starts one of Flower's programs: what `put_programs` made, or the program."""
    ours = home / PROGRAMS / name
    return str(ours) if ours.exists() else executable(name)


def _import_path() -> list[str]:
    """PYTHONPATH by which Flower's processes find the very fedmb that started them, installed or not."""
    own = str(Path(__file__).resolve().parents[2])
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return given if own in {*given, *site.getsitepackages()} else [own, *given]


def superlink(host: str, port: int, program: str) -> list[str]:
    """The SuperLink: one port for nodes, runs and the server's own processes, so it listens on loopback only.

    Args:
        host: where it listens.
        port: where it listens.
        program: path of what starts one.
    """
    place = ["--host", host, "--port", str(port), "--insecure", "--disable-runtime-dependency-installation"]
    return [program, *place]


def door(plan: Path) -> list[str]:
    """The nodes' door.

    Args:
        plan: a JSON file with a `DoorPlan`.
    """
    return [sys.executable, "-m", "fedmb.access.door_process", str(plan)]


def supernode(server: Server, *, port: int, node_config: Path, program: str) -> list[str]:
    """A SuperNode of one client.

    Args:
        program: path of what starts one.
        server: what it connects to.
        port: of its own programs, on loopback.
        node_config: a TOML file; its values are the app's `context.node_config`.
    """
    trust = ["--root-certificates", str(server.root_certificates)] if server.root_certificates else []
    proof = ["--auth-supernode-private-key", str(server.node_key)] if server.node_key else []
    return [
        program,
        "--superlink",
        server.address,
        *(["--insecure"] if server.insecure else [*trust, *proof]),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--node-config",
        str(node_config),
    ]


def trainer(settings: Path) -> list[str]:
    """The resident trainer of the client whose settings are in this file.

    -P: the folder of the program stays out of its import path, as it does for Flower's programs.
    """
    return [sys.executable, "-P", str(bundle() / "clients" / "trainer.py"), str(settings)]


def warm(folder: Path) -> list[str]:
    """What waits in `folder` to be the process that Flower starts for a message."""
    return [sys.executable, "-P", str(bundle() / "clients" / "warm.py"), str(folder)]
