"""One of a client's ranks, as torchrun starts it: python -m fedmb.launch.device_rank FOLDER."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from fedmb.errors import FedmbError
from fedmb.federation.deployed_client import train
from fedmb.launch.device_ranks import answer, asked
from fedmb.telemetry.log_lines import show_log_lines
from fedmb.training.device import training_device
from fedmb.training.distributed import joined_ranks

log = logging.getLogger(__name__)


def main(folder: Path) -> int:
    """Learn with the other ranks; rank 0 answers, and so does whoever fails first."""
    show_log_lines()
    settings, instruction = asked(folder)
    try:
        with joined_ranks(training_device(settings.device)) as ranks:
            update = train(settings, instruction, ranks)
            if ranks.is_first:
                answer(folder, update)
    except FedmbError as error:
        answer(folder, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
