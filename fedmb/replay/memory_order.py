"""Stores of one process seen by another in the order in which they were made.

x86 processors keep the order of stores and the order of loads, so a counter that is stored behind a row is seen behind
it. Others may not; there, two locks taken and released in turn keep what stands before them before what stands behind.
"""

from __future__ import annotations

import platform
import threading

IS_ORDERED = platform.machine().lower() in {"x86_64", "amd64", "i686", "i386"}
_LOCK = threading.Lock()


def keep_order() -> None:
    """Nothing before this call is seen by other processes after anything behind it."""
    if IS_ORDERED:
        return
    # One release may let later stores pass, and one acquire earlier ones; behind a release, no acquire does.
    for _ in range(2):
        with _LOCK:
            pass
