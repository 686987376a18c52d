"""Programs whose wall clock is fast or slow: wrong_clock.c, compiled for a test, stands before their libc."""

import shutil
import subprocess
from pathlib import Path

from kafka_broker import apt, may_install

SOURCE = Path(__file__).with_name("wrong_clock.c")


def clock(seconds, folder):
    """Environment of programs whose clock is so many seconds fast, with what that takes in `folder`.

    The C compiler is the distribution's where there is none and this process may install it.
    """
    library = folder / "wrong_clock.so"
    if not library.exists():
        _have_compiler()
        words = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", str(SOURCE), "-o", str(library), "-ldl"]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert not done.returncode, done.stderr
    return {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(seconds)}


def _have_compiler():
    if shutil.which("cc") is None and may_install():
        apt("update")
        apt("install", "gcc", "libc6-dev")
    assert shutil.which("cc"), "a program with a wrong clock takes a C compiler, which is missing; install gcc"
