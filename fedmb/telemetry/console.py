"""Round reports on a terminal: a table that grows above a progress bar, or plain log lines where there is none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from fedmb.telemetry.events import RoundReport

log = logging.getLogger(__name__)

_COLUMNS: tuple[tuple[str, int, Callable[[RoundReport], str]], ...] = (
    ("round", 5, lambda one: str(one.round)),
    ("loss", 7, lambda one: f"{one.train_loss:.4f}"),
    ("accuracy", 8, lambda one: figure(one, "accuracy")),
    ("departed", 8, lambda one: figure(one, "departed_accuracy")),
    ("rows/s", 7, lambda one: f"{one.rows_per_second:,.0f}"),
    ("private", 7, lambda one: count(one, "private")),
    ("stream", 7, lambda one: count(one, "stream")),
    ("replay", 7, lambda one: count(one, "replay")),
    ("lag", 5, lambda one: "-" if one.lag is None else str(one.lag)),
    ("up", 6, lambda one: size(one.bytes_up)),
)
LEGEND = (
    "loss: of each batch before it was learnt. accuracy: global model on held-out rows; departed: on the classes that "
    "left the streams. private/stream/replay: rows learnt by origin. lag: records not yet learnt. up: bytes from "
    "clients."
)


def figure(report: RoundReport, name: str) -> str:
    """A held-out score, or a dash where it is absent."""
    value = report.scores.get(name)
    return "-" if value is None else f"{value:.4f}"


def size(num_bytes: int) -> str:
    """Bytes in at most five letters, by thousands."""
    shown, unit = float(num_bytes), 0
    while shown >= 999.5:  # noqa: PLR2004  # what would be shown as four digits
        shown, unit = shown / 1000, unit + 1
    return f"{shown:.{0 if unit == 0 or shown >= 99.5 else 1}f}{('', 'k', 'M', 'G', 'T')[unit]}"  # noqa: PLR2004  # as above


def count(report: RoundReport, origin: str) -> str:
    """Rows of one origin."""
    return f"{report.rows.get(origin, 0):,}"


class LiveTable:
    """Prints one table row a round above a progress bar.

    Args:
        console: a rich console on a terminal.
        total: rounds of the whole run; None for one without end.
        done: rounds closed before, in a resumed run.
    """

    def __init__(self, console: Console, *, total: int | None, done: int = 0) -> None:
        self._console = console
        console.print(Text(LEGEND, style="dim"))
        console.print(Text(" ".join(f"{name:>{width}}" for name, width, _ in _COLUMNS), style="bold"))
        count = TextColumn("{task.completed}") if total is None else MofNCompleteColumn()
        self._progress = Progress(TextColumn("rounds"), BarColumn(), count, TimeElapsedColumn(), console=console)
        self._skipped: tuple[str, ...] = ()
        self._task = self._progress.add_task("rounds", total=total, completed=done)
        self._progress.start()

    def report(self, report: RoundReport) -> None:
        """Print the round."""
        row = " ".join(f"{show(report):>{width}}" for _, width, show in _COLUMNS)
        self._progress.console.print(Text(row), highlight=False)
        for client, reason in report.rejected.items():
            self._progress.console.print(Text(f"      {client} left out: {reason}", style="yellow"))
        if report.skipped != self._skipped:  # a line when it changes, not one a round
            self._skipped = report.skipped
            said = f"nothing new from {', '.join(report.skipped)}" if report.skipped else "every client has new rows"
            self._progress.console.print(Text(f"      {said}", style="dim"))
        self._progress.update(self._task, completed=report.round)

    def close(self) -> None:
        """Take the progress bar down."""
        self._progress.stop()


class LogLines:
    """One INFO line a round, for pipes and files."""

    def report(self, report: RoundReport) -> None:
        """Log the round."""
        shown = " ".join(f"{name}={show(report).replace(',', '')}" for name, _, show in _COLUMNS if name != "up")
        # A server without torch scores nothing itself; what clients say of the rows that they learn is the next best.
        own = report.monitor.get("train_accuracy") if "accuracy" not in report.scores else None
        learnt = f" train_accuracy={own:.4f}" if own is not None else ""
        early = f" closed_by={report.closed_by}" if report.closed_by != "replies" else ""
        skipped = f" skipped={','.join(report.skipped)}" if report.skipped else ""
        sent = f" bytes_down={report.bytes_down} bytes_up={report.bytes_up}"
        log.info("round closed %s%s%s%s%s", shown, learnt, sent, early, skipped)

    def close(self) -> None:
        """Nothing is held."""
