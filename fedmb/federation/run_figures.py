"""A run's figures for Prometheus, read from what its server's process leaves in the run directory.

That process may be killed and started again; whoever watches asks the one that started it, whose counts go on. A round
that is told again, since the kill came before its checkpoint, does not turn a counter back: the figures stand still
until the run has passed it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fedmb.errors import FedmbError
from fedmb.federation import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from fedmb.ledger import Ledger

MOST_CLIENTS = 1000  # that have a label of their own; a client may call itself what it likes, again and again
OTHERS = "(others)"


@dataclass(slots=True)
class _Told:
    """What the lines of a metrics file add up to."""

    rounds: int = 0
    seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    clients: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("accepted", "rejected", "skipped", "alarms")}
    )
    names: set[str] = field(default_factory=set)
    last: Mapping[str, Any] = field(default_factory=dict)

    def add(self, entry: Mapping[str, Any]) -> None:
        self.rounds += 1
        self.seconds += entry["seconds"]
        self.bytes_down += entry.get("bytes_down", 0)
        self.bytes_up += entry.get("bytes_up", 0)
        self.rows.update(entry["rows"])
        for kind, counter in self.clients.items():
            told = entry.get(kind, {})
            counts = told if kind == "alarms" else dict.fromkeys(told, 1)
            for name, count in counts.items():
                counter[self._label(name)] += count
        self.last = entry

    def _label(self, client: str) -> str:
        if client not in self.names and len(self.names) >= MOST_CLIENTS:
            return OTHERS
        self.names.add(client)
        return client


class RunFigures:
    """Figures of one run directory; may be asked from several threads, and reads only what is new.

    Args:
        metrics: the run's `metrics.jsonl`.
        checkpoints: directory of its checkpoints.
    """

    def __init__(self, metrics: Path, checkpoints: Path) -> None:
        self._file, self._checkpoints = metrics, checkpoints
        self._lock = threading.Lock()
        self._inode = self._read = 0
        self._told = self._shown = _Told()
        self._ledger_of: tuple[Path | None, Ledger | None] = (None, None)

    @property
    def round(self) -> int:
        """The last round that was told; 0 before the first."""
        with self._lock:
            return int(self._newest().last.get("round", 0))

    def line(self) -> str:
        """The last round in a few words."""
        with self._lock:
            last = self._newest().last
        if not last:
            return "round=0"
        scores = "".join(f" {name}={value:.4f}" for name, value in last["scores"].items() if value is not None)
        return f"round={last['round']} clients={last['clients']}{scores}"

    def metrics(self) -> Iterator[Metric]:
        """The figures of this moment."""
        with self._lock:
            told = self._newest()
            yield from _counters(told)
            yield from _gauges(told.last)
            yield _positions(self._ledger())

    def _newest(self) -> _Told:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return self._shown
        if status.st_ino != self._inode or status.st_size < self._read:  # written anew by a resumed run
            self._inode, self._read, self._told = status.st_ino, 0, _Told()
        if status.st_size > self._read:
            with self._file.open("rb") as file:
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read += len(whole) + len(newline)
            for line in whole.splitlines():
                self._told.add(json.loads(line))
        if self._told.last.get("round", 0) >= self._shown.last.get("round", 0):
            self._shown = self._told
        return self._shown

    def _ledger(self) -> Ledger | None:
        found = checkpoint.generations(self._checkpoints)
        newest = found[-1][1] if found else None
        if newest is not None and newest != self._ledger_of[0]:
            try:
                self._ledger_of = newest, checkpoint.load_without_arrays(newest).ledger
            except (FedmbError, OSError):  # damaged, or dropped since it was listed: the next one will do
                return self._ledger_of[1]
        return self._ledger_of[1]


def _counters(told: _Told) -> Iterator[Metric]:
    for name, about, total in (
        ("rounds", "Rounds closed.", told.rounds),
        ("round_seconds", "Time that they took.", told.seconds),
        ("bytes_down", "Bytes sent to clients, before Flower's framing and TLS.", told.bytes_down),
        ("bytes_up", "Bytes of their replies, refused ones among them.", told.bytes_up),
    ):
        yield CounterMetricFamily(f"fedmb_server_{name}", about, value=total)
    yield _labelled(CounterMetricFamily, "rows", "Rows learnt.", "origin", told.rows.items())
    for kind, name, about in (
        ("accepted", "accepted_updates", "Updates that were let in."),
        ("rejected", "rejected_updates", "Updates refused and clients that failed; the log says why."),
        ("skipped", "skipped", "Rounds in which the client had nothing new."),
        ("alarms", "alarms", "Drift alarms."),
    ):
        yield _labelled(CounterMetricFamily, name, about, "client", told.clients[kind].items())


def _gauges(last: Mapping[str, Any]) -> Iterator[Metric]:
    for name, about, value in (
        ("round", "Newest closed round, which is the model's version.", last.get("round", 0)),
        ("clients", "Clients whose update is in it.", last.get("clients", 0)),
        ("loss", "Their loss before each step.", last.get("train_loss")),
        ("last_round_seconds", "How long it took.", last.get("seconds")),
        ("rows_per_second", "Rows learnt in it over its time.", last.get("rows_per_second")),
        ("lag_records", "Records that streams hold beyond the model's ledger.", last.get("lag")),
        ("set_aside_records", "Records that could not be decoded.", last.get("set_aside")),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"fedmb_server_{name}", about, value=value)
    about = "The newest model on held-out rows."
    yield _labelled(GaugeMetricFamily, "score", about, "name", last.get("scores", {}).items())
    yield _labelled(GaugeMetricFamily, "monitor", "What to watch beside.", "name", last.get("monitor", {}).items())


def _positions(ledger: Ledger | None) -> Metric:
    family = GaugeMetricFamily(
        "fedmb_server_ledger_offset",
        "First record that the newest stored model has not learnt wholly.",
        labels=["log", "topic", "partition"],
    )
    for one, here in (ledger or {}).items():
        family.add_metric([str(one.log), one.topic, str(one.partition)], here.offset)
    return family


def _labelled(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    about: str,
    label: str,
    values: Iterable[tuple[str, float | None]],
) -> Metric:
    family = kind(f"fedmb_server_{name}", about, labels=[label])
    for key, value in values:
        if value is not None:
            family.add_metric([key], value)
    return family
