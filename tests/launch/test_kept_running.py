import os
import signal
import sys
import threading
from pathlib import Path

from programs import until

from fedmb.launch.kept_running import KeptRunning

WRITES_ITS_ID = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"


def read(file):
    return int(file.read_text()) if file.exists() and file.read_text() else None


def test_a_program_that_is_killed_is_started_again_and_ends_with_the_block(tmp_path):
    file = tmp_path / "id"
    with KeptRunning("sleeper", [sys.executable, "-c", WRITES_ITS_ID, str(file)], os.environ):
        first = until(lambda: read(file), 60, lambda: "a first id")
        os.kill(first, signal.SIGKILL)
        second = until(lambda: read(file) not in {None, first} and read(file), 60, lambda: "a second id")

    assert not Path(f"/proc/{second}").exists()
    assert not [one for one in threading.enumerate() if one.name == "fedmb-sleeper"]


def test_a_program_that_cannot_start_is_tried_more_and_more_seldom(tmp_path, caplog):
    with KeptRunning("broken", [sys.executable, "-c", "raise SystemExit(3)"], os.environ):
        until(lambda: caplog.text.count("broken ended code=3") >= 3, 60, lambda: caplog.text)

    pauses = [record.args[2] for record in caplog.records if record.msg.startswith("%s ended")]
    assert pauses[:3] == [0.1, 0.2, 0.4]
