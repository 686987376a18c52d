"""How fast replay buffers take and give rows: ours beside those of other libraries, all in turns within one run.

    make bench-replay                  # installs the peers, each into an environment of its own, and runs this
    python benchmarks/replay.py [--small] [--turns 25] [--seconds 0.1] [--only cpprb,tianshou] [--json PATH]

Two kinds of rows: 1,000,000 of 165 bytes (17 + 6 + 1 + 17 float32 and a bool) and 100,000 of 28 KB (4 x 84 x 84 uint8,
action, reward, done). Each contender holds a full buffer in a process of its own, with one thread, and does a slice of
a workload when it is asked; a turn asks all of them, in another order each time. Printed are rows a second, median and
quartiles over the turns, by the clock and by CPU time, and ours to each peer, paired within the turn: on a machine
that others use, the ratio by CPU time is the steadier one. Large rows are measured beside one peer at a time, or they
would not fit into memory; RLlib and Reverb hold fewer rows of both kinds (see replay_peers.py). `gather 256` reads rows
whose numbers are given out of the memory of our table: what the memory has to give.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from replay_children import Child, ChildFailed
from replay_items import ADD, ADD_ONE, LIMIT, PRIORITIZED, ROWS_OF, SAMPLE

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent
PEERS = ("cpprb", "tianshou", "torchrl", "flashbax", "rllib", "reverb")
STOCK = "stable-baselines3"
OURS, COMPILED = "fedmb-numpy", "fedmb-numba"
CAPACITIES = {"small": 1_000_000, "large": 100_000}
PHASES = {False: (ADD_ONE, ADD, SAMPLE, LIMIT), True: (PRIORITIZED,)}
TARGETS = (  # kind, workload, which of ours, beside which, least ratio
    ("small", SAMPLE, OURS, "the best peer", 5.0),
    ("small", ADD_ONE, OURS, "the best peer", 3.0),
    ("small", PRIORITIZED, OURS, "the best peer", 1.1),
    ("small", PRIORITIZED, COMPILED, "the best peer", 1.5),
    ("large", SAMPLE, OURS, LIMIT, 0.95),
)
MOST_MEMORY = 1.15  # times the rows' bytes

Entry = dict[str, Any]
"""A contender at a workload: what it is, and its slices, one a turn."""


def contender(name: str, peers: Path) -> Child | None:
    """A process for this contender, or None where it is not installed."""
    if name in PEERS:
        python = peers / f"replay-peers-{name}" / "bin" / "python"
        return Child(name, [str(python), str(HERE / "replay_peers.py"), name]) if python.exists() else None
    return Child(name, [sys.executable, str(HERE / "replay_contenders.py"), name])


def opened(kind: str, names: Sequence[str], settings: argparse.Namespace, *, prioritized: bool) -> list[Child]:
    """Processes with a full buffer; a contender that is not installed or fails is left out and said so."""
    request = {"kind": kind, "capacity": CAPACITIES[kind] // (20 if settings.small else 1), "prioritized": prioritized}
    children = []
    for name in names:
        child = contender(name, settings.peers)
        if child is None:
            print(f"{name} left out: it is not installed in {settings.peers}", file=sys.stderr)
            continue
        try:
            child.about = {"kind": kind, **child.ask("make", **request)}
            children.append(child)
        except ChildFailed as error:
            print(f"{name} left out: {error}", file=sys.stderr)
            child.close()
    return children


def taking_turns(children: Sequence[Child], workloads: Sequence[str], settings: argparse.Namespace) -> list[Entry]:
    """What contenders that are alive together did, of those that went through every turn."""
    slices: dict[tuple[str, str], list[dict[str, float]]] = {}
    for turn in range(-1, settings.turns):  # the first warms up: caches, and compilers that wait for a second call
        first = turn % len(children)
        for workload in workloads:
            for child in [*children[first:], *children[:first]]:
                if workload not in child.about["can"]:
                    continue
                try:
                    found = child.ask("time", workload=workload, seconds=settings.seconds)
                except ChildFailed as error:
                    print(f"{child.name} left out: {error}", file=sys.stderr)
                    child.about["can"] = ()
                    continue
                if turn >= 0:
                    slices.setdefault((workload, child.name), []).append(found)
    about = {child.name: child.about for child in children}
    return [
        {"workload": workload, "contender": name, "slices": found, **about[name]}
        for (workload, name), found in slices.items()
        if len(found) == settings.turns
    ]


def rates(entry: Entry, clock: str) -> np.ndarray:
    """Rows a second of each turn, by the clock ("seconds") or by CPU time ("cpu")."""
    rows = ROWS_OF[entry["workload"]]
    return np.array([rows * found["calls"] / max(1e-9, found[clock]) for found in entry["slices"]])


def quartiles(values: np.ndarray) -> list[float]:
    return np.percentile(values, [25, 50, 75]).tolist()


def close(children: Sequence[Child]) -> None:
    for child in children:
        child.close()


def beside(ours: Entry, other: Entry) -> dict[str, Any]:
    """Ours to another one, turn by turn."""
    found = {"ours": ours["contender"], "other": LIMIT if other["workload"] == LIMIT else other["contender"]}
    for clock, name in (("seconds", "ratio"), ("cpu", "by_cpu")):
        found[name] = quartiles(rates(ours, clock) / rates(other, clock))
    return found | {"kind": ours["kind"], "workload": ours["workload"]}


def measured(settings: argparse.Namespace) -> tuple[list[Entry], list[dict[str, Any]]]:
    """Every entry, and every paired ratio."""
    entries, ratios = [], []
    wanted = [name for name in (STOCK, *PEERS) if name in (settings.only or (STOCK, *PEERS))]
    for kind, prioritized in itertools.product(settings.kinds, PHASES):
        ours = opened(kind, [OURS, COMPILED] if prioritized else [OURS], settings, prioritized=prioritized)
        peers = [name for name in wanted if not (prioritized and name == STOCK)]
        for group in [peers] if kind == "small" else [[name] for name in peers]:
            print(f"{kind}, {'prioritised' if prioritized else 'uniform'}: {', '.join(group)} ...", file=sys.stderr)
            others = opened(kind, group, settings, prioritized=prioritized)
            found = taking_turns([*ours, *others], PHASES[prioritized], settings)
            close(others)
            entries += found
            by_key = {(entry["workload"], entry["contender"]): entry for entry in found}
            for own, other in itertools.product(ours, others):
                for workload in PHASES[prioritized]:
                    pair = by_key.get((workload, own.name)), by_key.get((workload, other.name))
                    if all(pair):
                        ratios.append(beside(*pair))
            if (LIMIT, OURS) in by_key:
                ratios.append(beside(by_key[SAMPLE, OURS], by_key[LIMIT, OURS]))
        close(ours)
    return entries, ratios


def print_tables(entries: list[Entry], ratios: list[dict[str, Any]]) -> None:
    for kind, workload in dict.fromkeys((entry["kind"], entry["workload"]) for entry in entries):
        print(f"\n{kind} rows, {workload}: thousand rows/s, median (quartiles); by CPU time; resident memory / rows")
        seen = set()
        for entry in entries:
            if (entry["kind"], entry["workload"]) != (kind, workload) or entry["contender"] in seen:
                continue
            seen.add(entry["contender"])
            low, middle, high = (value / 1e3 for value in quartiles(rates(entry, "seconds")))
            cpu = float(np.median(rates(entry, "cpu"))) / 1e3
            line = f"  {entry['version']:<26}{middle:>11,.1f} ({low:,.1f} to {high:,.1f}); {cpu:,.1f} by CPU"
            print(line + f"; {entry['bytes'] / 1e6:,.0f} MB, x{entry['memory']:.2f}")
        for ratio in ratios:
            if (ratio["kind"], ratio["workload"]) == (kind, workload):
                (low, middle, high), cpu = ratio["ratio"], ratio["by_cpu"][1]
                what = f"{ratio['ours']} to {ratio['other']}"
                print(f"    {what:<40} x{middle:.2f} ({low:.2f} to {high:.2f}), by CPU x{cpu:.2f}")


def targets(entries: list[Entry], ratios: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the tables say of the targets, printed and answered."""
    answers = []
    print()
    for kind, workload, ours, other, least in TARGETS:
        found = [one for one in ratios if (one["kind"], one["workload"], one["ours"]) == (kind, workload, ours)]
        found = [one for one in found if (one["other"] == LIMIT) == (other == LIMIT)]
        if not found:
            continue
        worst = min(found, key=lambda one: one["ratio"][1])
        if other == LIMIT:  # measured beside each peer: the middle one speaks for all
            worst = sorted(found, key=lambda one: one["ratio"][1])[len(found) // 2]
        name = f"{kind} rows, {workload}, {ours} to {worst['other']}"
        figure, by_cpu = worst["ratio"][1], worst["by_cpu"][1]
        answers.append({"what": name, "figure": figure, "by_cpu": by_cpu, "target": least, "met": figure >= least})
    for kind in dict.fromkeys(entry["kind"] for entry in entries):
        found = [
            one for one in entries if one["kind"] == kind and one["contender"] == OURS and one["workload"] == SAMPLE
        ]
        for one in found[:1]:
            figure = one["memory"]
            what = f"{kind} rows, resident memory to the rows' bytes, {OURS}"
            answers.append({"what": what, "figure": figure, "target": MOST_MEMORY, "met": figure <= MOST_MEMORY})
    for answer in answers:
        by_cpu = f" (by CPU {answer['by_cpu']:.2f})" if "by_cpu" in answer else ""
        line = f"{answer['what']:<76}{answer['figure']:>7.2f}{by_cpu}  target {answer['target']:g}: "
        print(line + ("met" if answer["met"] else "MISSED"))
    return answers


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a twentieth of the rows: to see that it runs")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.1, help="of a slice")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(CAPACITIES), metavar="small,large")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAMES", help="peers, by commas")
    parser.add_argument("--peers", type=Path, default=HERE.parent / "build", help="where replay-peers-NAME lie")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there as well")
    settings = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; {settings.turns} turns")
    entries, ratios = measured(settings)
    print_tables(entries, ratios)
    if settings.small:
        print("\ntargets are of whole tables; a twentieth of the small rows fits into caches, which suits the peers")
    report = {"entries": entries, "ratios": ratios, "targets": targets(entries, ratios)}
    if settings.json:
        settings.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
