"""Where Flower's process for each message comes from, and what starts those: `fedmb client` starts and ends this.

What is imported here need not be imported for a message. Nothing of it imports torch or starts a thread.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import fedmb.federation.client_tally
import fedmb.federation.node_note
import fedmb.federation.trainer_call  # noqa: F401  # these three for the app
from fedmb.federation.flower_programs import program
from fedmb.launch.warm import FORKED, serve, waiting
from fedmb.telemetry.log_lines import show_log_lines

if __name__ == "__main__":
    show_log_lines()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with waiting(Path(sys.argv[1])) as door:
        serve(door, {name: program(name) for name in FORKED})
