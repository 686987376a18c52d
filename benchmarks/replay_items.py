"""What benchmarks/replay.py puts into replay buffers, and how a process answers for one of them.

Needs NumPy only, since peers run in environments of their own. A process makes its buffer, fills it and then does timed
slices of a workload as it is asked, one JSON line a request, so that all contenders take turns within one run.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BATCH = 256
ALPHA, BETA = 0.6, 0.4
ADD_ONE, ADD, SAMPLE, PRIORITIZED, LIMIT = "add 1", "add 256", "sample 256", "prioritised 256", "gather 256"
ROWS_OF = {ADD_ONE: 1, ADD: BATCH, SAMPLE: BATCH, PRIORITIZED: BATCH, LIMIT: BATCH}
REPLY = "replay-benchmark "
SMALL = {"obs": ("float32", (17,)), "act": ("float32", (6,)), "rew": ("float32", ())}
SMALL |= {"next_obs": ("float32", (17,)), "done": ("bool", ())}
LARGE = {"obs": ("uint8", (4, 84, 84)), "act": ("int64", ()), "rew": ("float32", ()), "done": ("bool", ())}
SCHEMAS = {"small": SMALL, "large": LARGE}
POOLS = {"small": 4096, "large": 512}  # rows that are added again and again: more would be read from memory, not cache


@dataclass(frozen=True)
class Items:
    """Rows of one kind, made once and added again and again."""

    kind: str
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, kind: str) -> Items:
        random, count, columns = np.random.default_rng(0), POOLS[kind], {}
        for name, (dtype, shape) in SCHEMAS[kind].items():
            if dtype == "float32":
                columns[name] = random.standard_normal((count, *shape), np.float32)
            else:
                columns[name] = random.integers(0, 2 if dtype == "bool" else 100, (count, *shape)).astype(dtype)
        return cls(kind, columns)

    def __len__(self) -> int:
        return len(self.columns["rew"])

    @property
    def row_bytes(self) -> int:
        return sum(column[0].nbytes for column in self.columns.values())

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a row, as an environment's step gives it: arrays, and Python's numbers."""
        plain = {name: list(one) if one.ndim > 1 else one.tolist() for name, one in self.columns.items()}
        return [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]

    def batches(self, size: int = BATCH) -> list[dict[str, np.ndarray]]:
        starts = range(0, len(self) - size + 1, size)
        return [{name: one[start : start + size] for name, one in self.columns.items()} for start in starts]


def priorities() -> list[np.ndarray]:
    """New priorities of batches, float32."""
    random = np.random.default_rng(1)
    return [random.exponential(size=BATCH).astype(np.float32) + 0.01 for _ in range(16)]


def turning(choices: list[Any]) -> Callable[[], Any]:
    """A function that answers one after the other, and begins again."""
    place, count = 0, len(choices)

    def following() -> Any:
        nonlocal place
        place = (place + 1) % count
        return choices[place]

    return following


def rss() -> int:
    """Bytes of memory that this process has now."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def timed(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Calls, seconds and CPU seconds of doing it again and again; the clock is looked at ten times or so."""
    call()
    calls, chunk = 0, 1
    began, spent = time.perf_counter(), time.process_time()
    while True:
        for _ in range(chunk):
            call()
        calls += chunk
        passed = time.perf_counter() - began
        if passed >= seconds:
            return {"calls": calls, "seconds": passed, "cpu": time.process_time() - spent}
        chunk = max(1, min(2 * chunk, int(0.1 * seconds * calls / passed)))


def serve(
    make: Callable[[Items, int, bool], dict[str, Callable[[], object]]],
    version: str,
    *,
    libraries: Sequence[str] = (),
    most: Mapping[str, int] | None = None,
) -> None:
    """Answer requests until there are no more.

    Args:
        make: fills a buffer of so many rows, prioritised or not, and gives what it does, by the name of the workload.
        version: of what is measured.
        libraries: modules that are imported before memory is measured.
        most: rows of a buffer at most, by their kind, where it takes too long to fill.
    """
    calls: dict[str, Callable[[], object]] = {}
    for library in libraries:
        import_module(library)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "make":
            calls = {}
            items, before = Items.of(request["kind"]), rss()
            rows = min(request["capacity"], (most or {}).get(items.kind, sys.maxsize))
            calls = make(items, rows, request["prioritized"])
            grown = rss() - before
            answer = {"version": version, "can": sorted(calls), "rows": rows, "bytes": grown}
            answer["memory"] = grown / (rows * items.row_bytes)
        else:
            answer = timed(calls[request["workload"]], request["seconds"])
        print(REPLY + json.dumps(answer), flush=True)


def one_thread() -> None:
    """Let libraries compute in one thread; called before they are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
