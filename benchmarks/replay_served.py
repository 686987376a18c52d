"""How fast a served replay table gives and takes batches: over gRPC, through shared memory, and Reverb beside it.

    python benchmarks/replay_served.py [--quick] [--turns 5] [--reverb PYTHON] [--json PATH]

One table of 1,000,000 transitions of 165 bytes (17 + 6 + 1 + 17 float32, bool), one service in a process of its own,
one client here, batches of 256. Contenders run in turns within one run, each for a second; printed are rows a second
(median and middle half of the turns), the time that a caller waits for a batch (median and 99th percentile) and CPU
time of both processes. `p99 of 256` asks for one batch after another with one on its way, as a learner does that
computes for longer than a batch takes; the other rows of the table keep both sides busy. `memory copy` is the time of
a bare copy of as many bytes, measured in the same turns: what the machine had to give.

Reverb runs in an environment of its own, given by --reverb: dm-reverb[tensorflow]==0.14.0, Python 3.11 at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# This folder goes last, since files of clients' names lie in it.
sys.path.append(sys.path.pop(0))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fedmb.batch.minibatch import Column
from fedmb.replay.remote import RemoteTable
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.served_table import ServedTable
from fedmb.replay.service import ReplayService
from fedmb.replay.service_access import Listening

SCHEMA = {
    "observation": Column("float32", (17,)),
    "action": Column("float32", (6,)),
    "reward": Column("float32"),
    "next_observation": Column("float32", (17,)),
    "terminated": Column("bool"),
}
CAPACITY, BATCH, PART = 1_000_000, 256, 1000
SWITCH_SECONDS = 0.0005  # as server/replay.py sets it
TARGETS = {  # rows a second; Reverb's 24.1 and 8.4 thousand were measured on this kind of machine in shared/reference
    "grpc sample": 25 * 24_100,
    "grpc insert": 25 * 8_400,
    "shared sample": 2_000_000,
}
MOST_MILLISECONDS = 5.0  # p99 of a batch over gRPC


def serve() -> None:
    """A service of one full table, until it is killed; prints its address."""
    sys.setswitchinterval(SWITCH_SECONDS)
    table = ReplayTable(SCHEMA, CAPACITY, name="default")
    random = np.random.default_rng(0)
    for _ in range(CAPACITY // PART):
        table.append(transitions(random, PART))
    with ReplayService({"default": ServedTable(table)}, Listening()) as service:
        print(service.address, flush=True)
        time.sleep(1e6)


def transitions(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        name: random.random((count, *column.shape), np.float32) if column.dtype == "float32" else np.zeros(count, bool)
        for name, column in SCHEMA.items()
    }


def cpu_seconds(process: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Meter:
    """Counts batches for a while, and how long each was waited for."""

    def __init__(self, server: int, seconds: float) -> None:
        self.server, self.seconds = server, seconds

    def run(self, step: Callable[[], Any]) -> dict[str, float]:
        for _ in range(20):  # connections, first batches
            step()
        waits = []
        own, theirs, began = time.process_time(), cpu_seconds(self.server), time.perf_counter()
        now = began
        while now - began < self.seconds:
            step()
            then, now = now, time.perf_counter()
            waits.append(now - then)
        return {
            "rows_per_second": len(waits) * BATCH / (now - began),
            "p50_ms": 1e3 * float(np.percentile(waits, 50)),
            "p99_ms": 1e3 * float(np.percentile(waits, 99)),
            "client_us": 1e6 * (time.process_time() - own) / len(waits),
            "server_us": 1e6 * (cpu_seconds(self.server) - theirs) / len(waits),
        }


def sampling(transport: str, prefetch: int) -> Callable[[str, Meter], dict[str, float]]:
    def run(address: str, meter: Meter) -> dict[str, float]:
        with RemoteTable(address, transport=transport, prefetch=prefetch) as table:
            return meter.run(lambda: table.sample(BATCH).columns["reward"][0])

    return run


def inserting(transport: str) -> Callable[[str, Meter], dict[str, float]]:
    def run(address: str, meter: Meter) -> dict[str, float]:
        rows = transitions(np.random.default_rng(1), BATCH)
        with RemoteTable(address, transport=transport) as table:
            return meter.run(lambda: table.append(rows))

    return run


def row_by_row(transport: str) -> Callable[[str, Meter], dict[str, float]]:
    def run(address: str, meter: Meter) -> dict[str, float]:
        row = [array[0] for array in transitions(np.random.default_rng(1), 1).values()]

        def step() -> None:
            for _ in range(BATCH):
                table.append_row(row)

        with RemoteTable(address, transport=transport) as table:
            return meter.run(step)

    return run


def copying(_address: str, meter: Meter) -> dict[str, float]:
    source = np.zeros(BATCH * 168, np.uint8)
    return meter.run(source.copy)


CONTENDERS = {
    "memory copy": copying,
    "grpc sample": sampling("grpc", 16),
    "grpc p99 of 256": sampling("grpc", 1),
    "grpc insert": inserting("grpc"),
    "grpc insert one by one": row_by_row("grpc"),
    "shared sample": sampling("shared", 16),
    "shared p99 of 256": sampling("shared", 1),
    "shared insert": inserting("shared"),
    "shared insert one by one": row_by_row("shared"),
}


def reverb(python: str, seconds: float) -> dict[str, dict[str, float]]:
    """Reverb's samples and inserts, in a process of its environment."""
    script = Path(__file__).with_name("replay_served_peers.py")
    done = subprocess.run(  # noqa: S603  # ours
        [python, str(script), str(seconds)], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def service() -> Iterator[tuple[str, int]]:
    """Address and process of a service."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # ours
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


def report(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Print a table, and what became of the targets; medians by contender."""
    medians = {}
    print(f"\n{'':<26}{'rows/s':>12}  {'middle half':<24}{'p50 ms':>8}{'p99 ms':>8}{'client us':>11}{'server us':>11}")
    for name, runs in found.items():
        rates = np.array([run["rows_per_second"] for run in runs])
        low, middle, high = np.percentile(rates, [25, 50, 75])
        medians[name] = {key: float(np.median([run.get(key, np.nan) for run in runs])) for key in runs[0]}
        tail = "".join(f"{medians[name].get(key, np.nan):>{width}.3f}" for key, width in (("p50_ms", 8), ("p99_ms", 8)))
        cpu = "".join(f"{medians[name].get(key, np.nan):>11.1f}" for key in ("client_us", "server_us"))
        print(f"{name:<26}{middle:>12,.0f}  {f'{low:,.0f} to {high:,.0f}':<24}{tail}{cpu}")
    print()
    for name, target in TARGETS.items():
        middle = medians[name]["rows_per_second"]
        print(f"{name}: {middle:,.0f} rows/s, target {target:,} ({'met' if middle >= target else 'MISSED'})")
    worst = medians["grpc p99 of 256"]["p99_ms"]
    verdict = "met" if worst < MOST_MILLISECONDS else "MISSED"
    print(f"grpc p99 of 256: {worst:.2f} ms, target {MOST_MILLISECONDS} ({verdict})")
    for ours, theirs in (("grpc sample", "reverb sample"), ("grpc insert", "reverb insert")):
        if theirs in medians:
            ratio = medians[ours]["rows_per_second"] / medians[theirs]["rows_per_second"]
            print(f"{ours} to {theirs}: x{ratio:.1f} (target x25)")
    return medians


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the time: to see that it runs")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--reverb", metavar="PYTHON", help="interpreter of an environment with dm-reverb[tensorflow]")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there as well")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    seconds = 0.2 if arguments.quick else 1.0
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with service() as (address, process):
        meter = Meter(process, seconds)
        for turn in range(arguments.turns):
            order = list(CONTENDERS.items())
            for name, contender in order if turn % 2 else order[::-1]:
                found[name].append(contender(address, meter))
            if arguments.reverb:
                try:
                    for name, one in reverb(arguments.reverb, seconds).items():
                        found.setdefault(name, []).append(one)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    print(f"reverb left out: {str(error)[-400:]}", file=sys.stderr)
                    arguments.reverb = None
    medians = report(found)
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": found, "medians": medians}, indent=2) + "\n")


if __name__ == "__main__":
    main()
