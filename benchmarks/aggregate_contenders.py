"""Who makes one model of many in benchmarks/aggregate.py; run as a script, it measures one contender's memory."""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, MultiKrum

from fedmb.aggregation import by_element, clipping, geometric_median, krum
from fedmb.federation.model_record import arrays_from_record
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update

if TYPE_CHECKING:
    from collections.abc import Callable

logging.getLogger("flwr").setLevel(logging.ERROR)
TENSORS = 160
DISTINCT = 10


def model(millions: int, seed: int) -> dict[str, np.ndarray]:
    """160 tensors: one in two is small, as norm layers and biases are, and the others grow with depth."""
    weights = np.where(np.arange(TENSORS) % 2, 0.01, np.linspace(0.2, 2.0, TENSORS))
    sizes = np.maximum(1, weights / weights.sum() * millions * 1e6).astype(int)
    random = np.random.default_rng(seed)
    return {f"layer{k:03d}.weight": random.standard_normal(size, np.float32) for k, size in enumerate(sizes)}


class Round:
    """A round's replies, as Flower hands them to a strategy.

    Args:
        millions: parameters of a model.
        clients: how many answered.
    """

    def __init__(self, millions: int, clients: int) -> None:
        self.grid = InProcessGrid(ClientApp(), {2: {}})
        self.flat: list[ArrayRecord] = []
        self.models = [model(millions, k) for k in range(min(clients, DISTINCT) or 1)]
        self.records = [as_record(one) for one in self.models]
        self.clients = clients
        self.num_bytes = sum(array.nbytes for array in self.models[0].values())
        self.replies = [self.reply(self.records[k % DISTINCT], k) for k in range(clients)]

    def reply(self, record: ArrayRecord, client: int) -> Message:
        asked = self.grid.create_message(RecordDict(), "train", 2, "1")
        about = ConfigRecord({"client": f"client-{client:05d}"})
        metrics = MetricRecord({"num-examples": weight(client), "loss": 1.0})
        return Message(RecordDict({"arrays": record, "metrics": metrics, "update": about}), reply_to=asked)

    def in_one_piece(self) -> list[Message]:
        """The replies as fedmb's clients send them: all values of a dtype in one array."""
        if not self.flat:
            self.flat = [as_record({"float32": np.concatenate(list(one.values()))}) for one in self.models]
        return [self.reply(self.flat[k % DISTINCT], k) for k in range(self.clients)]

    def fresh(self) -> list[Message]:
        """The replies again, for contenders that take them apart."""
        return [self.reply(self.records[k % DISTINCT].copy(), k) for k in range(self.clients)]


def as_record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def weight(client: int) -> float:
    return float(100 + client % 7)


def aggregated(make: Callable[[], Any], one: Round, *, in_one_piece: bool = False) -> float:
    """Seconds of one call of a strategy's own method."""
    strategy, replies = make(), one.in_one_piece() if in_one_piece else one.fresh()
    strategy._before = (one.flat if in_one_piece else one.records)[0]  # noqa: SLF001  # what configure_train would keep
    begun = time.perf_counter()
    record, _ = strategy.aggregate_train(1, replies)
    spent = time.perf_counter() - begun
    assert record is not None
    return spent


def summed(one: Round) -> float:
    """Seconds of a plain sum: the first model's product, then one product and one sum a model and tensor."""
    begun = time.perf_counter()
    total: dict[str, np.ndarray] = {}
    for client in range(one.clients):
        for name, array in one.models[client % DISTINCT].items():
            if client:
                total[name] += array * np.float32(weight(client))
            else:
                total[name] = array * np.float32(weight(client))
    return time.perf_counter() - begun


CONTENDERS: dict[str, Callable[[Round], float]] = {
    "flower": partial(aggregated, FedAvg),
    "fedmb mean": partial(aggregated, MiniBatchFedAvg),
    "fedmb flat": partial(aggregated, MiniBatchFedAvg, in_one_piece=True),
    "numpy sum": summed,
    "fedmb clipped": partial(aggregated, lambda: MiniBatchFedAvg(clipping.ClippedMean())),
    "fedmb trimmed": partial(aggregated, lambda: MiniBatchFedAvg(by_element.TrimmedMean(2))),
    "flower trimmed": partial(aggregated, FedTrimmedAvg),
    "fedmb median": partial(aggregated, lambda: MiniBatchFedAvg(by_element.Median())),
    "flower median": partial(aggregated, FedMedian),
    "fedmb krum": partial(aggregated, lambda: MiniBatchFedAvg(krum.MultiKrum(2))),
    "flower krum": partial(aggregated, lambda: MultiKrum(num_malicious_nodes=2, num_nodes_to_select=8)),
    "fedmb rfa": partial(aggregated, lambda: MiniBatchFedAvg(geometric_median.GeometricMedian())),
}


def peak_bytes() -> int:
    """Largest resident set since the last `forget_peak`."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    """Begin to look for a peak anew; answers what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def streamed(millions: int, clients: int) -> int:
    """Peak of a round in which each reply is made, taken and dropped before the next, with no room in memory."""
    one = Round(millions, 0)
    strategy = MiniBatchFedAvg(memory_bytes=0)
    strategy._before = one.records[0]  # noqa: SLF001  # what configure_train would keep
    before = forget_peak()
    for client in range(clients):
        reply = one.reply(as_record(model(millions, client % DISTINCT)), client)
        arrays = arrays_from_record(reply.content.array_records["arrays"])
        light = strategy.receive(reply, Update(arrays, weight(client), 0, {f"client-{client:05d}": {}}))
        one.replies.append(light)
        del arrays, reply
    strategy.aggregate_train(1, one.replies)
    return peak_bytes() - before


def main() -> int:
    what, millions, clients, name = sys.argv[1:]
    if what == "streamed":
        print(streamed(int(millions), int(clients)))
        return 0
    one = Round(int(millions), int(clients))
    before = forget_peak()
    CONTENDERS[name](one)
    print(peak_bytes() - before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
