"""Where round reports go on disk: `metrics.jsonl` and TensorBoard event files."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

from fedmb.telemetry.run_directory import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmb.telemetry.events import RoundReport

FLUSH_SECONDS = 10.0  # TensorBoard looks for news every 30 s


class JsonLines:
    """Appends one line of JSON a round.

    Args:
        path: the file; lines beyond round `after_round`, and a torn last line, are dropped on opening, because a
            resumed run reports those rounds again.
        after_round: round that the model of the run stands at.
    """

    def __init__(self, path: Path, *, after_round: int = 0) -> None:
        kept = [line for line, entry in read_lines(path) if entry["round"] <= after_round]
        if path.exists() and path.read_text() != (content := "".join(kept)):
            write_atomically(path, content)  # a disk that is full must not cost the rounds that were told
        self._file = path.open("a")

    def report(self, report: RoundReport) -> None:
        """Write the round; it is with the operating system when this returns."""
        self._file.write(json.dumps(report.to_json()) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each whole line of a metrics file with its entry; a torn last line is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        yield line, json.loads(line)


class TensorBoard:
    """Writes scalars into TensorBoard event files, step = round.

    Args:
        directory: where the event files go.
        after_round: round that the model stands at; later points of an earlier, stopped run are hidden.
    """

    def __init__(self, directory: Path, *, after_round: int = 0) -> None:
        # Imported here: it costs 0.3 s that a run without this sink need not pay. Its SummaryWriter writes in a thread,
        # and waits for ever for one that a full disk has ended.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        directory.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = Event, scalar
        self._writer = EventsWriter(str(directory / "events"))
        if after_round:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=after_round + 1, session_log=start))
        self._flushed_at = time.monotonic()

    def report(self, report: RoundReport) -> None:
        """Add the round's figures."""
        scalars = {f"test/{name}": value for name, value in report.scores.items()}
        scalars |= {f"rows/{name}": float(value) for name, value in report.rows.items()}
        scalars |= {f"monitor/{name}": value for name, value in report.monitor.items()}
        scalars |= {"train/loss": report.train_loss, "train/rows_per_second": report.rows_per_second}
        scalars |= {"wire/bytes_down": float(report.bytes_down), "wire/bytes_up": float(report.bytes_up)}
        if report.lag is not None:
            scalars["stream/lag"] = float(report.lag)
        for name, value in scalars.items():
            if math.isnan(value):  # a loss that private rounds leave out, or that nobody had: no point on a curve
                continue
            summary = self._scalar(name, value)
            self._writer.write_event(self._event(wall_time=time.time(), step=report.round, summary=summary))
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write out buffered points."""
        self._writer.close()
