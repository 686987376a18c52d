"""Which task two processes run, in a few letters: its class, its module's digest, and which arrays it trains."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from typing import TYPE_CHECKING

from fedmb.errors import VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Collection

    from fedmb.training.task import Task

_LETTERS = 16


def task_digest(task: Task) -> str:
    """`Class@digest` of a task; the digest is the start of the SHA-256 of its module's source.

    Every letter of the module counts, comments too: what a site may change by itself belongs into another one. Empty
    where there is no source, as of a class typed into a shell.
    """
    return _digest(type(task))


@functools.cache  # the source as it was first read: that is what this process runs, whatever is written since
def _digest(kind: type) -> str:
    try:
        source = inspect.getsource(sys.modules[kind.__module__])
    except (OSError, TypeError, KeyError):
        return ""
    return f"{kind.__module__}:{kind.__qualname__}@{hashlib.sha256(source.encode()).hexdigest()[:_LETTERS]}"


def check_task(theirs: str, mine: str) -> None:
    """Demand one task on both sides; one that is not known is not compared.

    Raises:
        VersionMismatch: they differ.
    """
    if theirs and mine and theirs.rpartition("@")[2] != mine.rpartition("@")[2]:
        raise VersionMismatch(
            f"server and client must run one task, got {theirs} there and {mine} here; install the server's task on "
            "the client"
        )


def parameters_digest(names: Collection[str]) -> str:
    """`number@digest` of the arrays that are trained, whatever their order."""
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return f"{len(names)}@{digest[:_LETTERS]}"


def check_parameters(theirs: str, mine: Collection[str]) -> None:
    """Demand that the model's trained arrays are those that the server steps; where it steps none, none are compared.

    Args:
        theirs: the server's, as `parameters_digest` tells them; empty where it steps none.
        mine: names of those of the model here.

    Raises:
        VersionMismatch: they differ.
    """
    if theirs and theirs != (here := parameters_digest(mine)):
        raise VersionMismatch(
            f"server and client must train the same arrays, got {theirs} there and {here} here; install the task of "
            "the server and its other clients on this one"
        )
