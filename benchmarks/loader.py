"""How fast rows become batches: our table source against torch's DataLoader, drained without a model.

    python benchmarks/loader.py [--quick] [--json PATH]

Loaders are drained in turns, a slice of fixed time each, within one run and on one thread; a ratio pairs slices of the
same turn, so that a busy moment hits both. Printed: median rate, and of the paired ratios to the stock DataLoader
(workers 0) the median and the range of the middle half. Every loader gives freshly shuffled batches of images or
vectors and labels: ours as NumPy arrays, which `fedmb.training` turns into tensors without a copy ("+ tensors").
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from fedmb.batch.dataset import dataset_source
from fedmb.batch.table import TableSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedmb.batch.source import BatchSource

STOCK = "DataLoader, workers 0"
OURS = "TableSource"
TARGETS = {"vectors": {32: 25.0, 256: 60.0}, "images": {32: 6.0, 256: 12.0}}


class BatchedFetch(torch.utils.data.Dataset[Any]):
    """A dataset that fetches a batch at once, the fastest form that DataLoader knows."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        index = torch.tensor(indices)
        return tuple(tensor.index_select(0, index) for tensor in self.tensors)


def as_is(batch: Any) -> Any:
    """What a batched fetch returned; a named function, since worker processes may have to pickle it."""
    return batch


def tables(quick: bool) -> dict[str, dict[str, np.ndarray]]:
    """Columns of the two tables."""
    random, part = np.random.default_rng(0), 10 if quick else 1
    num_vectors, num_images = 100_000 // part, 20_000 // part
    return {
        "vectors": {
            "x": random.standard_normal((num_vectors, 32), np.float32),
            "y": random.integers(0, 10, num_vectors),
        },
        "images": {
            "x": random.integers(0, 256, (num_images, 3, 32, 32), np.uint8),
            "y": random.integers(0, 10, num_images),
        },
    }


def drained(source: BatchSource, size: int, *, as_tensors: bool = False) -> Iterator[int]:
    """Rows of each batch, for ever."""
    while True:
        batch = source.take(size)
        if as_tensors:
            for column in batch.columns.values():
                torch.from_numpy(column)
        yield len(batch)


def epochs(loader: DataLoader[Any]) -> Iterator[int]:
    """Rows of each batch, epoch after epoch: starting the workers of an epoch is part of the price."""
    while True:
        for batch in loader:
            yield len(batch[0])


def loaders(columns: dict[str, np.ndarray], size: int) -> dict[str, Callable[[], Iterator[int]]]:
    """Every way to drain the table, by name."""
    tensors = [torch.from_numpy(column) for column in columns.values()]
    stock, fetch = TensorDataset(*tensors), BatchedFetch(*tensors)

    def batched_index(workers: int) -> Iterator[int]:
        sampler = BatchSampler(RandomSampler(stock), size, drop_last=False)
        return epochs(DataLoader(stock, sampler=sampler, batch_size=None, num_workers=workers))

    def batched_fetch() -> Iterator[int]:
        return epochs(DataLoader(fetch, batch_size=size, shuffle=True, collate_fn=as_is))

    def dataset() -> Iterator[int]:
        rows = list(zip(*columns.values(), strict=True))
        return drained(dataset_source(rows, seed=0, client="a", names=list(columns)), size)

    return {
        STOCK: lambda: epochs(DataLoader(stock, batch_size=size, shuffle=True)),
        "DataLoader, workers 2": lambda: epochs(DataLoader(stock, batch_size=size, shuffle=True, num_workers=2)),
        "DataLoader, batched index": lambda: batched_index(0),
        "DataLoader, batched index, workers 2": lambda: batched_index(2),
        "DataLoader, __getitems__": batched_fetch,
        "dataset_source": dataset,
        OURS: lambda: drained(TableSource(columns, seed=0, client="a"), size),
        "TableSource + tensors": lambda: drained(TableSource(columns, seed=0, client="a"), size, as_tensors=True),
    }


def rate(batches: Iterator[int], seconds: float) -> float:
    """Rows a second over one slice."""
    rows, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        rows += sum(itertools.islice(batches, 8))
    return rows / spent


def measured(columns: dict[str, np.ndarray], size: int, *, turns: int, seconds: float) -> list[dict[str, Any]]:
    """Median rate and paired ratios of each loader."""
    running = {name: make() for name, make in loaders(columns, size).items()}
    for batches in running.values():  # first batches pay for imports, workers and the first order
        rate(batches, seconds / 4)
    slices: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(turns):
        for name, batches in running.items():
            slices[name].append(rate(batches, seconds))
    rows = []
    for name, rates in slices.items():
        ratios = np.array(rates) / np.array(slices[STOCK])
        low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
        rows.append(
            {"loader": name, "rows_per_second": float(np.median(rates)), "ratio": middle, "spread": [low, high]}
        )
    return rows


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, short slices: to see that it runs")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    turns, seconds = (3, 0.05) if arguments.quick else (9, 0.4)
    report = []
    for table, columns in tables(arguments.quick).items():
        for size in (32, 256):
            rows = measured(columns, size, turns=turns, seconds=seconds)
            report.append({"table": table, "batch_size": size, "target": TARGETS[table][size], "loaders": rows})
            shape = "x".join(map(str, columns["x"].shape))
            sys.stdout.write(f"\n{table} {shape} {columns['x'].dtype}, batches of {size}, {turns} turns\n")
            for row in rows:
                spread = "{:.2f} to {:.2f}".format(*row["spread"])
                line = f"{row['loader']:<38}{row['rows_per_second']:>14,.0f} rows/s  x{row['ratio']:<8.2f}({spread})"
                target = f"  target x{TARGETS[table][size]:g}" if row["loader"] == OURS else ""
                sys.stdout.write(line + target + "\n")
            sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
