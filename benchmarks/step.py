"""How much a step costs beside the mathematics: ours against a bare loop, Accelerate, Lightning and Keras.

All train the same multi-layer perceptron (32-128-10) with SGD on the same resident rows, in one process with one
thread, in turns; a figure is the ratio to the bare loop of the same turn, its median and spread over all turns. Where
there is a GPU the same is measured on it, copies included; each clock stops when the device has done its work.

    make bench-step          # installs the peers and runs this
    python benchmarks/step.py --turns 15 --steps 300 --json step.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from step_contenders import CONTENDERS, DEVICES, use, waiting

from fedmb.training.trainer import NOISE_EVERY

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGETS = {"fedmb": {32: 1.05, 256: 1.02}}  # ratio to the bare loop
NOISE_TARGET, WAIT_TARGET = 0.5, 2.0  # per cent of a step


def measure(names: list[str], batch_size: int, turns: int, steps: int) -> dict[str, list[float]]:
    """Microseconds a step of each contender, one figure a turn; contenders take turns, so drift hits all alike."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        CONTENDERS[name](batch_size, 20)
    for _ in range(turns):
        for name in names:
            figures[name].append(CONTENDERS[name](batch_size, steps) / steps * 1e6)
    return figures


def report(place: torch.device, size: int, figures: dict[str, list[float]], waits: list[float]) -> dict[str, object]:
    """Print a batch size's figures, and answer them."""
    print(f"\n{place.type}, batch size {size}: microseconds a step (median), ratio to the bare loop of the same turn")
    result: dict[str, object] = {}
    for name, values in figures.items():
        middle, low, high = spread(value / base for value, base in zip(values, figures["bare"], strict=True))
        line = f"  {name:<11} {statistics.median(values):8.1f}   {middle:5.3f}x   quartiles {low:.3f} to {high:.3f}"
        target = TARGETS.get(name, {}).get(size) if place.type == "cpu" else None
        print(line + (f"   target {target}" if target else ""))
        result[name] = {"us": statistics.median(values), "ratio": middle, "quartiles": [low, high]}
    if {"fedmb", "fedmb noise"} <= figures.keys():
        pairs_of_turns = zip(figures["fedmb noise"], figures["fedmb"], strict=True)
        middle, low, high = spread(100 * (one / other - 1) / NOISE_EVERY for one, other in pairs_of_turns)
        print(f"  noise measured every {NOISE_EVERY} steps: {middle:.2f} % ({low:.2f} to {high:.2f}) of a step", end="")
        print(f"   target {NOISE_TARGET} %")
        result["noise_per_cent"] = [middle, low, high]
    middle, low, high = spread(iter(waits))
    print(f"  waiting for rows: {middle:.1f} % ({low:.1f} to {high:.1f}) of the loop", end="")
    print(f"   target {WAIT_TARGET} %" if place.type == "cuda" else "")
    result["waiting_per_cent"] = [middle, low, high]
    return result


def spread(values: Iterator[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(list(values), [25, 50, 75]).tolist()
    return middle, low, high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = ["bare", *(name for name in chosen.only if name != "bare")]
    result = {}
    for place in DEVICES:
        use(place)
        for size in chosen.sizes:
            figures = measure(names, size, chosen.turns, chosen.steps)
            waits = [waiting(size, chosen.steps) for _ in range(chosen.turns)]
            result[f"{place.type}/{size}"] = report(place, size, figures, waits)
    if len(DEVICES) == 1:
        print("\nno GPU here: the CUDA part is left out")
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
