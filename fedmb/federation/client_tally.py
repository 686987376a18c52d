"""What a client has learnt so far, kept in a small file: whoever answers a message may be another process each time.

The file counts from when the client's directory was made. It is for those who watch and nothing is decided by it, so a
damaged one begins anew.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fedmb.federation.record_names import BASE_VERSION, METRICS, UPDATE, WEIGHT
from fedmb.update import EPSILON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flwr.app import Message
    from prometheus_client.metrics_core import Metric

FILE = "tally.json"


def tallied(directory: Path, answer: Callable[[], Message]) -> Message:
    """What `answer` replies, once it was added to the file of the client in `directory`."""
    started = time.monotonic()
    reply = answer()
    tally = ClientTally(directory).read()
    tally["seconds"] = time.monotonic() - started
    tally["total_seconds"] += tally["seconds"]
    if reply.has_error():
        tally["failed"] += 1
    else:
        about, metrics = reply.content.config_records[UPDATE], reply.content.metric_records[METRICS]
        rows = Counter(json.loads(str(about["rows"])))
        tally |= {"rounds": tally["rounds"] + 1, "round": int(str(about[BASE_VERSION])) + 1, "ended": time.time()}
        tally |= {"rows": dict(rows + Counter(tally["rows"])), "units": metrics[WEIGHT]}
        tally |= {EPSILON: metrics[EPSILON]} if EPSILON in metrics else {}
    file = directory / FILE
    unfinished = file.with_name(f".{FILE}.tmp")
    unfinished.write_text(json.dumps(tally))
    unfinished.replace(file)  # not synced: a power cut may cost the figures, and the next round makes others
    return reply


class ClientTally:
    """Reads the file of the client in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE

    def read(self) -> dict[str, Any]:
        """The counts so far; zeros before the first round."""
        nothing: dict[str, Any] = {"rounds": 0, "failed": 0, "rows": {}, "total_seconds": 0.0}
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return nothing
        return nothing | found if isinstance(found, dict) else nothing

    def line(self) -> str:
        """The counts in a few words."""
        found = self.read()
        return f"rounds={found['rounds']} failed={found['failed']} rows={sum(found['rows'].values())}"

    def metrics(self) -> Iterator[Metric]:
        """The figures of this moment, in Prometheus' names."""
        found = self.read()
        for name, about in (
            ("rounds", "Messages answered with an update."),
            ("failed", "Messages answered with an error."),
            ("total_seconds", "Time that both took."),
        ):
            label = {"failed": "failed_rounds", "total_seconds": "round_seconds"}.get(name, name)
            yield CounterMetricFamily(f"fedmb_client_{label}", about, value=found[name])
        rows = CounterMetricFamily("fedmb_client_rows", "Rows learnt.", labels=["origin"])
        for origin, count in found["rows"].items():
            rows.add_metric([origin], count)
        yield rows
        for name, label, about in (
            ("round", "round", "The last round that was answered with an update."),
            ("seconds", "last_round_seconds", "How long the last message took, from its arrival to the reply."),
            ("units", "last_round_units", "Units, such as rows, that the last update weighs."),
            (EPSILON, "epsilon", "What the client has told of its rows so far, where [privacy] is on."),
            ("ended", "last_round_timestamp_seconds", "When it was ready, since the epoch."),
        ):
            if name in found:
                yield GaugeMetricFamily(f"fedmb_client_{label}", about, value=found[name])
