"""Which of Flower's nodes a client is now: noted by who answers a message, read by who keeps the node running."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILE = "node"


def note_node(directory: Path, node: int) -> None:
    """Write the id into the client's directory."""
    unfinished = directory / f".{FILE}.tmp"
    unfinished.write_text(str(node))
    unfinished.replace(directory / FILE)  # not synced: after a power cut nobody counts as connected for long


def noted_node(directory: Path) -> int | None:
    """The id; None where none was noted since `forget_node`."""
    try:
        text = (directory / FILE).read_text()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def forget_node(directory: Path) -> None:
    """The node has said goodbye itself, or was said goodbye for."""
    (directory / FILE).unlink(missing_ok=True)
