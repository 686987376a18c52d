"""Parts to one byte string: what `b"".join` answers, in memory of large pages where there is much of it.

Fresh memory is taken page by page as it is first written. With pages of 4 KiB that is half the time of joining 100 MB,
and every model that travels or is stored is joined once; the kernel gives pages of 2 MiB to whoever asks. Bytes are
made as C extensions make them: without content, filled before anybody else sees them.

Source: https://docs.python.org/3/c-api/bytes.html, "PyBytes_FromStringAndSize"; madvise(2), MADV_HUGEPAGE.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LARGE = 4 << 20  # bytes; below, the allocator has memory at hand that was written before
_CONTENT = bytes.__basicsize__ - 1  # where an object's bytes begin: its size has one for the zero behind them


def joined(parts: Sequence[bytes | memoryview]) -> bytes:
    """The parts one after the other; views must be contiguous, of any numbers."""
    size = sum(memoryview(part).nbytes for part in parts)
    if size < LARGE or _made is None:
        return b"".join(parts)
    whole = _made(None, size)
    start = id(whole) + _CONTENT
    page = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    _advise(
        page, (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - page, mmap.MADV_HUGEPAGE
    )  # a refusal costs time only
    target, at = memoryview((ctypes.c_char * size).from_address(start)).cast("B"), 0
    for part in parts:
        view = memoryview(part).cast("B")
        target[at : at + view.nbytes] = view
        at += view.nbytes
    return whole


_made: Callable[[None, int], bytes] | None = None
if sys.platform == "linux" and sys.implementation.name == "cpython":
    _made = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
        ("PyBytes_FromStringAndSize", ctypes.pythonapi)
    )
    _advise = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)(
        ("madvise", ctypes.CDLL(None))
    )
