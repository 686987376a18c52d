"""A client's resident trainer: one process that answers every message, and keeps between them what is dear to make.

    while True:
        while nobody calls and steps ahead are left: take one        # training.overlap_steps
        line = whoever calls
        say LEARNT, with what was learnt from the message

Kept are torch, the CUDA context, the model, and the source with its consumer, ring and prefetching thread. What is
learnt depends on none of it: every round loads the server's arrays and seeks the source to where the message says, as
`LocalUpdate` promises. Another seed or another way to train closes the source and makes all of it anew, and so does an
error: what a failed step left behind is not worth knowing.
"""

from __future__ import annotations

import json
import logging
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from flwr.app import Error, RecordDict

from fedmb import __version__
from fedmb.errors import AccessDenied, DecodeError
from fedmb.federation.client import learnt, outcome_of
from fedmb.federation.deployed_client import held_back, trainer_for
from fedmb.federation.record_bytes import from_bytes, to_bytes
from fedmb.federation.record_names import FAILED
from fedmb.federation.trainer_line import LINE_VERSION, Line, Say
from fedmb.replay.wire_format import json_of
from fedmb.training.device import computing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from fedmb.federation.client_settings import ClientSettings
    from fedmb.federation.residual import Residual
    from fedmb.federation.wire import Instruction
    from fedmb.training.local_update import LocalUpdate
    from fedmb.update import Update

log = logging.getLogger(__name__)
T = TypeVar("T")

HELLO_SECONDS = 60.0  # for an app that has called to say what it wants; a model of 2 GB takes a few seconds


class Learner(Protocol):
    """What turns messages into updates: `KeptTraining`, or a client's devices, which start for each message."""

    def learn(self, instruction: Instruction) -> Update:
        """What the server asks for."""
        ...

    def step_ahead(self) -> bool:
        """Take a step before the next message; False once there is none to take."""
        ...

    def close(self) -> None:
        """Give up everything that is kept; the next message makes it anew."""
        ...


class KeptTraining:
    """One client's training, kept from message to message.

    Args:
        settings: the client's own.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._kept: LocalUpdate | None = None
        self._made_for = ""
        self._may_run_ahead = False

    def learn(self, instruction: Instruction) -> Update:
        """Learn as the server asks.

        Raises:
            FedmbError: as `deployed_client.train`; nothing is kept then.
        """
        try:
            with computing(threads=self._settings.threads, repeatable=True):
                return learnt(self._trainer(instruction), instruction)
        except BaseException:
            self.close()
            raise

    def step_ahead(self) -> bool:
        """A step of the next round, where the server asks for such; a step that fails is left to the next message."""
        if self._kept is None or not self._may_run_ahead:
            return False
        try:
            with computing(threads=self._settings.threads, repeatable=True):
                return self._kept.step_ahead()
        except Exception:
            log.exception("step ahead failed client=%s", self._settings.name)
            self.close()
            return False

    def close(self) -> None:
        """Close the source and forget the model."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.source.close()

    def _trainer(self, instruction: Instruction) -> LocalUpdate:
        wanted = json.dumps([instruction.seed, instruction.training], sort_keys=True)
        if self._kept is None or self._made_for != wanted:
            self.close()
            self._kept = trainer_for(self._settings, seed=instruction.seed, training=instruction.training)
            self._made_for = wanted
            reason = held_back(self._settings, self._kept)
            self._may_run_ahead = reason is None
            if reason and self._kept.training.overlap_steps:
                log.warning("no steps ahead client=%s reason=%s", self._settings.name, reason)
        return self._kept


@dataclass(frozen=True, slots=True)
class Handed:
    """The records of a message, as an app handed them on."""

    content: RecordDict


class Resident:
    """Answers apps one after the other, for as long as the process lives.

    Args:
        door: socket that apps call.
        learner: does the work.
        client: name of the client.
        program: file that this process runs; an app may bring another one in its place.
        residual: what the client's compression has not sent yet.
    """

    def __init__(
        self,
        door: socket.socket,
        learner: Learner,
        *,
        client: str,
        program: Path,
        residual: Residual | None = None,
    ) -> None:
        self._door = door
        self._learner = learner
        self._client = client
        self._residual = residual
        self._program = program
        self._code: str | None = None
        self._busy_seconds = 0.0
        self._since = time.monotonic()

    def serve(self) -> Path:
        """Answer until an app's code is not what this process has imported; the program to go on as, afresh."""
        while True:
            while not self._is_called() and self._busy(self._learner.step_ahead):
                continue
            connection, _ = self._door.accept()
            try:
                with Line(connection) as line:
                    if (program := self._answer(line)) is not None:
                        return program
            except AccessDenied as error:
                log.warning("caller refused reason=%s", error)
            except (DecodeError, OSError) as error:
                self._learner.close()  # the app may train by itself now, and needs the source
                log.warning("caller lost reason=%s", error)

    def _answer(self, line: Line) -> Path | None:
        """Answer one app; a program where only a fresh process can."""
        hello, message = line.hear(HELLO_SECONDS), line.hear(HELLO_SECONDS)
        if hello is None or message is None:
            raise DecodeError("an app must say hello and hand over a message, got neither; it has ended")
        if hello.kind is not Say.HELLO or message.kind is not Say.LEARN:
            raise DecodeError(f"an app says HELLO, then LEARN, got {hello.kind.name} and {message.kind.name}")
        about = json_of(hello.payload)
        if reason := self._unfit(about):
            self._learner.close()
            line.tell(Say.AGAIN, {"reason": reason})
            log.info("trainer starts afresh client=%s reason=%s", self._client, reason)
            return self._brought(about)
        outcome = self._outcome(from_bytes(message.payload))
        if isinstance(outcome, Error):
            line.tell(Say.FAILED, {"code": outcome.code, "reason": outcome.reason})
        else:
            line.say(Say.LEARNT, *to_bytes(outcome))
        return None

    def _unfit(self, about: dict[str, object]) -> str:
        """Why this process cannot do what an app wants; its first app's code is imported from then on."""
        found = (about.get("version"), about.get("fedmb"))
        if found != (LINE_VERSION, __version__):
            return f"fedmb is {__version__} here and {found[1]} there"
        if self._brought(about).read_bytes() != self._program.read_bytes():
            return "the app brings a trainer of its own"
        code = str(about.get("code"))
        if self._code is None:
            self._code = code
            sys.path.insert(0, code)
        return "" if code == self._code else f"the app's code lies in {code} now"

    def _brought(self, about: dict[str, object]) -> Path:
        """The trainer in an app's folder; this one where it has none."""
        brought = Path(str(about.get("code"))) / "clients" / self._program.name
        return brought if brought.is_file() else self._program

    def _outcome(self, content: RecordDict) -> RecordDict | Error:
        log.info("trainer asked client=%s", self._client)
        try:
            outcome = self._busy(
                lambda: outcome_of(Handed(content), self._learner.learn, client=self._client, residual=self._residual)
            )
        except Exception as error:
            log.exception("training failed client=%s", self._client)
            self._learner.close()
            return Error(FAILED, f"client {self._client}: {type(error).__name__}: {error}")
        now = time.monotonic()
        log.info("trainer answered client=%s busy=%.3f", self._client, self._busy_seconds / (now - self._since))
        self._busy_seconds, self._since = 0.0, now
        return outcome

    def _busy(self, work: Callable[[], T]) -> T:
        started = time.monotonic()
        try:
            return work()
        finally:
            self._busy_seconds += time.monotonic() - started

    def _is_called(self) -> bool:
        return bool(select.select([self._door], [], [], 0)[0])
