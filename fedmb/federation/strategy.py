"""FedAvg over mini-batch updates, as a Flower strategy."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedmb.aggregation.average import RunningAverage
from fedmb.errors import SettingsError
from fedmb.federation.model_record import arrays_from_record, arrays_to_record
from fedmb.federation.wire import ARRAYS, CONFIG, METRICS, node_of, sender, weight_of
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.serverapp import Grid

log = logging.getLogger(__name__)


class MiniBatchFedAvg(Strategy):
    """Weighted mean of the clients' models, each weighted by the units it learnt.

    Runs under `fedmb.federation.rounds` and, like any Flower strategy, under its own `start`. Replies are added in the
    order of client names, so the order in which they arrive never changes a bit. Memory is one model, not one a client.

    Args:
        fraction_train: share of the connected nodes that train in a round, in (0, 1].
        seed: seed of the run; keys the selection of nodes.

    Source: McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    def __init__(self, *, fraction_train: float = 1.0, seed: int = 0) -> None:
        if not 0 < fraction_train <= 1:
            raise SettingsError(
                f"fraction_train must be over 0 and at most 1, got {fraction_train}; 1 selects every node",
                key="rounds.fraction_train",
            )
        self.fraction_train = fraction_train
        self.seed = seed

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each selected node; the selection depends on seed, round and the set of node ids."""
        node_ids = sorted(grid.get_node_ids())
        wanted = math.ceil(len(node_ids) * self.fraction_train)
        picks = generator(self.seed, server_round, "selection").choice(len(node_ids), wanted, replace=False)
        config["server-round"] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        return [
            Message(content, dst_node_id=node_ids[pick], message_type=MessageType.TRAIN, group_id=str(server_round))
            for pick in sorted(picks)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Mean of the replied models and sums of the replied metrics; (None, None) when nobody learnt anything."""
        average = RunningAverage()
        sums: dict[str, float] = {}
        usable = [reply for reply in replies if reply.has_content()]
        for reply in sorted(usable, key=lambda one: (sender(one), node_of(one))):
            average.add(arrays_from_record(reply.content.array_records[ARRAYS]), weight_of(reply))
            for name, value in reply.content.metric_records[METRICS].items():
                if isinstance(value, int | float):
                    sums[name] = sums.get(name, 0.0) + value
        if average.weight == 0:
            log.info("nothing aggregated round=%d replies=%d", server_round, average.count)
            return None, None
        return arrays_to_record(average.result()), MetricRecord({**sums})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No messages: clients score each batch before they learn it, and a second wave costs seconds a round."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Log the strategy's settings in one line."""
        log.info("strategy=MiniBatchFedAvg fraction_train=%g seed=%d", self.fraction_train, self.seed)
