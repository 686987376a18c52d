"""Exit codes of `fedmb`; docs/EXIT_CODES.md says what to do about each."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a finished process tells the one that started it. A number never changes its meaning."""

    OK = 0
    """Done; also when a long-running verb was asked to stop with SIGTERM and drained."""
    FAILED = 1
    """fedmb stopped on purpose for a reason without a code of its own."""
    USAGE = 2
    """The command line names no such verb or option, or lacks a part."""
    SETTINGS = 3
    """A setting is unknown or breaks a rule."""
    DATA = 4
    """Data are not in the form that was promised, or too few."""
    STALE = 5
    """An update does not start where the model stands."""
    VERSION = 6
    """Two processes, or a file and its reader, speak different versions."""
    CORRUPT = 7
    """A log, ring or checkpoint was damaged on disk."""
    OWNED = 8
    """Another live process owns the partition, ring or run directory."""
    DIVERGED = 9
    """The model's parameters or loss are no longer finite."""
    CHECK = 10
    """`fedmb check` found that something required is missing, or `fedmb keys check` that a key is of no use."""
    GONE = 11
    """Records that a ledger still needs are no longer in the log."""
    UNREACHABLE = 12
    """A broker or registry does not answer."""
    DENIED = 13
    """A broker, registry or server refuses who we are, or we refuse who it is."""
    STALLED = 14
    """A client library fell into a call that nothing ends."""
    DISK = 15
    """A disk is full, read-only or broken, and what must be stored cannot be."""
    BUG = 70
    """An error that fedmb did not foresee; the traceback stands above."""
    INTERRUPTED = 130
    """Stopped with Ctrl-C (128 + SIGINT), as shells report it."""
    TERMINATED = 143
    """Stopped with SIGTERM (128 + SIGTERM) by a verb that has nothing to drain."""
