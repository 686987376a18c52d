"""A client of several devices: a process for each, started by torchrun for one message, that learn as one.

this process                                     ranks 0 .. devices - 1
writes settings, instruction and arrays   --->   read them; rank 0 opens the source, and deals its rows
waits, and reads the update               <---   rank 0 writes the update, or why there is none
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any

from fedmb import errors
from fedmb.arrays.tensor_bytes import from_bytes, to_bytes
from fedmb.errors import FedmbError
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import train
from fedmb.federation.wire import Instruction
from fedmb.launch.child import Child
from fedmb.ledger import Ledger, spans_from_json, spans_to_json
from fedmb.telemetry.run_directory import write_atomically
from fedmb.training.round_terms import RoundTerms
from fedmb.update import Update

if TYPE_CHECKING:
    from fedmb.update import Arrays

ASKED, ARRAYS = "asked.json", "arrays.safetensors"
ANSWER, ANSWERED = "answer.json", "answer.safetensors"


def learn(settings: ClientSettings, instruction: Instruction) -> Update:
    """Learn as the server asks, on as many devices as the settings say.

    Raises:
        FedmbError: what `train` raises, on whatever rank; or a process ended before rank 0 had an answer.
    """
    if settings.devices == 1:
        return train(settings, instruction)
    with TemporaryDirectory(prefix="fedmb-ranks-") as place:
        folder = Path(place)
        _write_arrays(folder / ARRAYS, instruction.arrays)
        about = {"settings": settings.model_dump(mode="json"), "instruction": _to_json(instruction)}
        (folder / ASKED).write_text(json.dumps(about))
        environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with Child(_command(settings.devices, folder), environment=environment, output=sys.stderr.fileno()) as ranks:
            code = ranks.wait(Event())
        return _answer(folder, code)


class AnewEachMessage:
    """A resident trainer's work where a client's devices start for each message; nothing is kept.

    Args:
        settings: the client's own.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings

    def learn(self, instruction: Instruction) -> Update:
        """As the function `learn`."""
        return learn(self._settings, instruction)

    def step_ahead(self) -> bool:
        """There is never a step to take."""
        return False

    def close(self) -> None:
        """Nothing is open."""


def _command(devices: int, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}", "--max-restarts=0"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
        *("-m", "fedmb.launch.device_rank", str(folder)),
    ]


def asked(folder: Path) -> tuple[ClientSettings, Instruction]:
    """What `learn` wrote for its ranks."""
    about = json.loads((folder / ASKED).read_text())
    found = about["instruction"]
    instruction = Instruction(
        arrays=_read_arrays(folder / ARRAYS),
        base_version=found["base_version"],
        positions=found["positions"],
        seed=found["seed"],
        training=found["training"],
        ledger=Ledger.from_json(found["ledger"]),
        terms=RoundTerms.from_json(found["terms"]),
    )
    return ClientSettings.model_validate(about["settings"]), instruction


def answer(folder: Path, outcome: Update | FedmbError) -> None:
    """Let `learn` read rank 0's update, or why a rank has none; the first answer stays."""
    if (folder / ANSWER).exists():
        return
    if isinstance(outcome, FedmbError):
        content: dict[str, Any] = {"error": type(outcome).__name__, "message": str(outcome)}
    else:
        _write_arrays(folder / ANSWERED, outcome.arrays)
        content = {**asdict(replace(outcome, arrays={}, spans={})), "spans": spans_to_json(outcome.spans)}
    write_atomically(folder / ANSWER, json.dumps(content).encode())


def _answer(folder: Path, code: int | None) -> Update:
    try:
        content = json.loads((folder / ANSWER).read_text())
    except FileNotFoundError:
        raise FedmbError(
            f"every device of a client must stay until rank 0 has its update, got exit code {code} before; its log is "
            "above"
        ) from None
    if "error" in content:
        kind = getattr(errors, content["error"], FedmbError)
        raise _raised(kind, content["message"])
    spans = spans_from_json(content.pop("spans"))
    return Update(**{**content, "arrays": _read_arrays(folder / ANSWERED), "spans": spans})


def _raised(kind: type[FedmbError], message: str) -> FedmbError:
    try:
        return kind(message)
    except TypeError:  # one that carries where it happened; the sentence says it too
        return FedmbError(message)


def _to_json(instruction: Instruction) -> dict[str, Any]:
    return {
        "base_version": instruction.base_version,
        "positions": instruction.positions,
        "seed": instruction.seed,
        "training": instruction.training,
        "ledger": instruction.ledger.to_json(),
        "terms": instruction.terms.to_json(),
    }


def _write_arrays(path: Path, arrays: Arrays) -> None:
    path.write_bytes(to_bytes(arrays))


def _read_arrays(path: Path) -> Arrays:
    arrays, _ = from_bytes(path.read_bytes())
    return arrays
