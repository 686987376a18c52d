"""The directory of one run, laid out so that others can read it.

config.toml       the resolved settings; written first, `--resume` starts from it
env.json          versions of everything, seed
metrics.jsonl     one line a round
events.out.*      the same for TensorBoard
checkpoints/      the model with its ledger, one safetensors file a generation
state/            logs, rings and locks of a simulation
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from typing import IO, TYPE_CHECKING, Any

from fedmb.errors import AlreadyOwned, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

_REPORTED = ("fedmb", "flwr", "torch", "numpy", "kafka-python", "safetensors", "pydantic")


class RunDirectory:
    """Paths of one run, owned by one process at a time.

    Raises:
        AlreadyOwned: another live process runs in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.state = self.path / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.lock = self.state / "owner.lock"
        self._held = locked(self.lock, self.path)

    @classmethod
    def create(cls, path: Path, *, config: str, seed: int) -> RunDirectory:
        """Make the directory of a new run and write its settings and environment.

        Raises:
            SettingsError: a run lives there already.
        """
        run = cls(path)
        if run.config.exists():
            run.close()
            raise SettingsError(
                f"a new run needs a directory without one, {run.path} holds config.toml; "
                f"continue it with --resume {path} or choose another --run-dir"
            )
        write_atomically(run.path / "env.json", json.dumps(environment(seed), indent=2) + "\n")
        write_atomically(run.config, config)
        return run

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """Open the directory of a run that was started before.

        Raises:
            SettingsError: no run was started there.
        """
        if not (path / "config.toml").is_file():
            raise SettingsError(
                f"a run to resume must have a config.toml, {path} has none; start it anew with --run-dir {path}"
            )
        return cls(path)

    def close(self) -> None:
        """Give up the directory."""
        self._held.close()


def environment(seed: int) -> dict[str, Any]:
    """Versions and machine that a result depends on."""
    versions = {}
    for name in _REPORTED:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "seed": seed,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": versions,
    }


def write_atomically(path: Path, content: str | bytes) -> None:
    """Put `content` at `path` so that a reader sees all of it or none, also after a power cut."""
    data = content.encode() if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        error.filename = str(path)
        with suppress(OSError):  # the first error is told; on a full disk what is left here takes room
            unfinished.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def locked(path: Path, directory: Path, *, kind: str = "a run directory") -> IO[str]:
    """The lock file `path`, held until it is closed or this process ends; it names the owner's process.

    Raises:
        AlreadyOwned: another live process holds it.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise AlreadyOwned(
            f"{kind} has one live process, {directory} belongs to process {owner}; wait for it or stop it"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
