"""What it costs to make one model of many: our mean and rules beside Flower's FedAvg and a plain numpy sum.

All are measured as Flower's own function is: from the replies of a round, in memory, to the averaged record; the plain
sum is given arrays that are read already and makes no record. They take turns in one process; a figure is the ratio to
Flower's time in the same turn, its median and quartiles. Models have 160 float32 tensors of a ResNet's proportions;
beyond ten clients the models of the first ten come again, so that a round fits into memory.

Memory is measured in a process of its own each: the peak beside the replies, and, for ours under fedmb's rounds, where
replies come one by one and go, the peak in all with more and more clients.

    make bench-aggregate
    python benchmarks/aggregate.py --sizes 1 --clients 10 100 1000 --turns 9 --json aggregate.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from aggregate_contenders import CONTENDERS, Round

TARGETS = {1: 8.0, 25: 4.0}  # times Flower's speed, by millions of parameters
MIB = 1 << 20


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return middle, low, high


def timed(millions: int, clients: int, turns: int, names: list[str]) -> dict[str, object]:
    """Print and answer the figures of one size."""
    one = Round(millions, clients)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + 1):  # the first one warms up
        for name in names:
            spent = CONTENDERS[name](one)
            if turn:
                seconds[name].append(spent)
    gigabytes = one.num_bytes * clients / 1e9
    print(f"\n{millions} M parameters, {clients} clients: milliseconds (median), GB/s, times Flower's speed")
    result: dict[str, object] = {}
    for name, values in seconds.items():
        middle, low, high = spread([flower / own for flower, own in zip(seconds["flower"], values, strict=True)])
        median = float(np.median(values))
        line = f"  {name:<14} {median * 1e3:9.1f}  {gigabytes / median:6.2f}  {middle:6.2f}x"
        line += f"  quartiles {low:.2f} to {high:.2f}"
        print(line + (f"   target {TARGETS[millions]:g}" if name.startswith("fedmb") and millions in TARGETS else ""))
        result[name] = {"ms": median * 1e3, "ratio": middle, "quartiles": [low, high]}
    return result


def in_a_child(*words: str) -> float:
    """What a process of its own prints, in MiB."""
    command = [sys.executable, str(Path(__file__).with_name("aggregate_contenders.py")), *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / MIB  # noqa: S603  # ours


def remembered(millions: int, clients: list[int]) -> dict[str, object]:
    """Print and answer peaks of memory."""
    model = 4 * millions * 1e6 / MIB
    print(f"\n{millions} M parameters ({model:.0f} MiB a model): peak beside the replies, 10 clients, MiB")
    result: dict[str, object] = {}
    for name in ("flower", "fedmb mean", "numpy sum"):
        peak = in_a_child("beside", str(millions), "10", name)
        print(f"  {name:<14} {peak:8.0f}   {peak / model:.1f} models")
        result[name] = peak
    print(
        f"{millions} M parameters: peak of a whole round of ours, replies one by one, MiB (no updates held in memory)"
    )
    for count in clients:
        peak = in_a_child("streamed", str(millions), str(count), "fedmb mean")
        print(f"  {count:>6} clients {peak:8.0f}   {peak / model:.1f} models")
        result[f"streamed {count}"] = peak
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 25], help="millions of parameters")
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=["fedmb mean", "fedmb flat", "numpy sum"])
    parser.add_argument("--memory", action="store_true", help="measure memory and not time")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    names = ["flower", *(name for name in chosen.only if name != "flower")]
    result: dict[str, object] = {}
    for millions in chosen.sizes:
        if chosen.memory:
            result[f"memory/{millions}"] = remembered(millions, chosen.clients)
        else:
            for clients in chosen.clients:
                result[f"{millions}/{clients}"] = timed(millions, clients, chosen.turns, names)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
