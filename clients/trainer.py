"""The resident trainer of a client: `fedmb client` starts it with the path of the client's settings, and ends it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from fedmb.federation.trainer_line import listening
from fedmb.telemetry.log_lines import show_log_lines

log = logging.getLogger("fedmb.clients")


def serve(file: Path) -> Path:
    """Answer the client's messages; the program to go on as. Change here what is kept between messages."""
    # Apps may call from now on; what follows imports torch.
    with listening(file.parent / "trainer") as door:
        from fedmb.federation.client_settings import ClientSettings
        from fedmb.federation.resident import KeptTraining, Resident
        from fedmb.federation.residual import Residual
        from fedmb.launch.device_ranks import AnewEachMessage
        from fedmb.settings import load

        settings = load(ClientSettings, file=file)
        learner = KeptTraining(settings) if settings.devices == 1 else AnewEachMessage(settings)
        log.info("trainer ready client=%s pid=%d", settings.name, os.getpid())
        try:
            residual = Residual(settings.directory)
            return Resident(door, learner, client=settings.name, program=Path(__file__), residual=residual).serve()
        finally:
            learner.close()


if __name__ == "__main__":
    show_log_lines()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    program = serve(Path(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-P", str(program), *sys.argv[1:]])  # noqa: S606  # without a shell
