"""How fast a ring in a device's memory gives rows, beside a bare copy of as many bytes on the same device.

    python benchmarks/replay_device.py [--device cuda] [--turns 15] [--small] [--json PATH]

The rows of benchmarks/replay.py: 1,000,000 of 165 bytes, 100,000 of 28 KB. In turns: a copy of as many bytes as a
sample has, a uniform sample, a prioritised sample with the update of its priorities, and the append of a batch of the
host. Clocks stop when the device has done its work, after many calls that were enqueued one behind the other, as a
learner does. Printed: microseconds a call, bytes a second, and of the ratio to the copy median and quartiles.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from replay_items import ALPHA, BETA, Items

from fedmb.batch.minibatch import schema_of
from fedmb.training.device import training_device
from fedmb.training.device_prioritized import DevicePrioritized
from fedmb.training.device_ring import DeviceRing

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITIES = {"small": 1_000_000, "large": 100_000}
SIZES = {"small": (256, 4096, 65_536), "large": (256, 4096)}
TARGET = 0.5  # of the copy's bandwidth, at the largest size: below that a call takes as long as it takes to enqueue it
COPY, SAMPLE, PRIORITIZED, APPEND = "copy", "sample", "prioritised sample + update", "append from the host"


def filled(items: Items, capacity: int, device: torch.device, sampler: DevicePrioritized | None) -> DeviceRing:
    ring = DeviceRing(schema_of(items.columns), capacity, device=device, sampler=sampler)
    for _ in range(-(-capacity // len(items))):
        ring.append(items.columns)
    return ring


def calls_of(uniform: DeviceRing, prioritized: DeviceRing, items: Items, size: int) -> dict[str, Callable[[], object]]:
    device = uniform.device
    num_bytes = size * uniform.statistics().num_bytes // uniform.capacity
    source = torch.zeros(num_bytes // 8, dtype=torch.int64, device=device)
    priorities = torch.rand(size, device=device)
    batch = {name: column[:256] for name, column in items.columns.items()}

    def cycle() -> None:
        sample = prioritized.sample(size)
        prioritized.reprioritize(sample.ids, priorities)

    return {
        COPY: source.clone,
        SAMPLE: lambda: uniform.sample(size),
        PRIORITIZED: cycle,
        APPEND: lambda: uniform.append(batch),
    }


def timed(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds a call, many of them enqueued before the device is waited for."""

    def took(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / count

    return took(max(3, min(2000, int(seconds / max(took(2), 1e-7)))))


def measured(kind: str, device: torch.device, settings: argparse.Namespace) -> list[dict[str, Any]]:
    items, report = Items.of(kind), []
    capacity = CAPACITIES[kind] // (20 if settings.small else 1)
    uniform = filled(items, capacity, device, None)
    prioritized = filled(items, capacity, device, DevicePrioritized(ALPHA, BETA))
    row_bytes = uniform.statistics().num_bytes / capacity
    for size in SIZES[kind]:
        calls = calls_of(uniform, prioritized, items, size)
        found: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(-1, settings.turns):
            for name, call in calls.items():
                spent = timed(call, device, settings.seconds)
                if turn >= 0:
                    found[name].append(spent)
        for name, spent in found.items():
            rows = 256 if name == APPEND else size
            ratio = np.percentile(np.array(found[COPY]) / np.array(spent), [25, 50, 75]).tolist()
            middle = float(np.median(spent))
            entry = {"kind": kind, "size": rows, "what": name, "us": middle * 1e6, "ratio": ratio}
            report.append(entry | {"bytes_per_second": rows * row_bytes / middle})
            line = (
                f"  {kind:<6}{rows:>7} rows  {name:<28}{middle * 1e6:>10.1f} us {rows * row_bytes / middle / 1e9:>9.2f}"
            )
            low, half, high = ratio
            print(line + f" GB/s  x{half:.2f} ({low:.2f} to {high:.2f}) of the copy", flush=True)
    return report


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, or auto")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of a slice")
    parser.add_argument("--small", action="store_true", help="a twentieth of the rows: to see that it runs")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there as well")
    settings = parser.parse_args()
    device = training_device(settings.device)
    torch.set_num_threads(1)
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread")
    entries = [entry for kind in CAPACITIES for entry in measured(kind, device, settings)]
    answers = []
    for kind, sizes in SIZES.items():
        found = next(one for one in entries if (one["kind"], one["size"], one["what"]) == (kind, sizes[-1], SAMPLE))
        figure = found["ratio"][1]
        answers.append(
            {"what": f"{kind} rows, {sizes[-1]} of them, to a copy", "figure": figure, "met": figure >= TARGET}
        )
        print(f"{answers[-1]['what']:<60}{figure:>6.2f}  target {TARGET}: {'met' if figure >= TARGET else 'MISSED'}")
    if settings.json:
        settings.json.write_text(json.dumps({"entries": entries, "targets": answers}, indent=2) + "\n")


if __name__ == "__main__":
    main()
