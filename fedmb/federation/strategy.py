"""FedAvg over mini-batch updates, and its robust kin, as a Flower strategy."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedmb.aggregation.control_variates import LOST
from fedmb.aggregation.fednova import FedNova, check_reach
from fedmb.aggregation.rule import Mean
from fedmb.aggregation.stack import MEMORY_BYTES, Stack
from fedmb.errors import NotEnoughData, SettingsError, ShapeError, StaleUpdate
from fedmb.federation.control_record import add_control
from fedmb.federation.model_record import arrays_from_record, arrays_to_record
from fedmb.federation.record_names import ARRAYS, CONFIG, METRICS
from fedmb.federation.wire import node_of, sender, weight_of
from fedmb.seeding import generator
from fedmb.training.reach import REACH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from flwr.serverapp import Grid
    from numpy.typing import NDArray

    from fedmb.aggregation.control_variates import ControlVariates
    from fedmb.aggregation.rule import Rule
    from fedmb.aggregation.server_optimizer import ServerOptimizer
    from fedmb.federation.private import Private
    from fedmb.telemetry.events import RoundReport
    from fedmb.update import Arrays, Update

log = logging.getLogger(__name__)


@runtime_checkable
class Receiving(Protocol):
    """A strategy that takes updates as they arrive, so that a round need not hold all of them in memory."""

    stack: Stack
    """What was taken since the last `configure_train`."""
    shortfall: str
    """Why the last `aggregate_train` made no model; empty when it made one."""

    def exhausted(self) -> str:
        """Why no further round may be made; empty while one may."""
        ...

    def published(self, report: RoundReport) -> RoundReport:
        """What of a round's report may be told."""
        ...

    def objection(self, update: Update) -> str:
        """Why an update cannot be taken: it lacks what the strategy reads; empty where it can."""
        ...

    def receive(self, message: Message, update: Update) -> Message:
        """Take what an accepted reply learnt; answers the reply without it, for `aggregate_train`."""
        ...

    def refuse(self, client: str) -> None:
        """Hear of a reply that was refused for what it held."""
        ...


class MiniBatchFedAvg(Strategy):
    """One model of the clients' models by a rule: their mean, each weighted by the units it learnt, if none is named.

    Runs under `fedmb.federation.rounds` and, like any Flower strategy, under its own `start`. Replies count in the
    order of client names, so the order in which they arrive never changes a bit. Under fedmb's rounds memory does not
    grow with the number of clients; under Flower's `start` all replies are in memory before they come here.

    Args:
        rule: how many models become one.
        optimizer: steps from the model before towards the rule's answer, which is taken as it is if left out.
        control: SCAFFOLD's control variates, where clients train with them.
        equal_weights: let every client weigh the same, whatever it learnt.
        private: what keeps the models from telling of any one client; its mean is the rule then.
        fraction_train: share of the connected nodes that train in a round, in (0, 1].
        over_sampling: share of more nodes that are asked, so that a round need not wait for all.
        seed: seed of the run; keys the selection of nodes.
        memory_bytes: updates that may wait in memory; those beyond wait in a file.
        directory: where that file lies; the system's place for temporary files when left out.

    Source: McMahan et al. 2017, arXiv:1602.05629, algorithm 1; sources of the rules stand beside them.
    """

    def __init__(
        self,
        rule: Rule | None = None,
        *,
        optimizer: ServerOptimizer | None = None,
        control: ControlVariates | None = None,
        equal_weights: bool = False,
        private: Private | None = None,
        fraction_train: float = 1.0,
        over_sampling: float = 0.0,
        seed: int = 0,
        memory_bytes: float = MEMORY_BYTES,
        directory: Path | None = None,
    ) -> None:
        if not 0 < fraction_train <= 1:
            raise SettingsError(
                f"fraction_train must be over 0 and at most 1, got {fraction_train}; 1 selects every node",
                key="rounds.fraction_train",
            )
        self.rule = private.mean if private is not None else rule or Mean()
        self.private = private
        if over_sampling < 0:
            raise SettingsError(
                f"over_sampling must be 0 or more, got {over_sampling}; 0 asks no more nodes than are needed",
                key="rounds.over_sampling",
            )
        self.optimizer = optimizer
        self.control = control
        self.equal_weights = equal_weights
        self.fraction_train = fraction_train
        self.over_sampling = over_sampling
        self.seed = seed
        self.stack = Stack(memory_bytes=memory_bytes, directory=directory)
        self.shortfall = ""
        self._refused: set[str] = set()
        self._lost: set[str] = set()
        self._before = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each selected node; the selection depends on seed, round and the set of node ids."""
        self.stack.close()
        self._refused.clear()
        self._lost.clear()
        self._before = arrays
        node_ids = sorted(grid.get_node_ids())
        picks = self._picked(server_round, len(node_ids))
        config["server-round"] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        if self.control is not None:
            add_control(content, config, self.control.mean(), self.control.generation)
        return [
            Message(content, dst_node_id=node_ids[pick], message_type=MessageType.TRAIN, group_id=str(server_round))
            for pick in sorted(picks)
        ]

    def _picked(self, server_round: int, count: int) -> Sequence[int]:
        if self.private is not None:
            return self.private.picked(server_round, count)
        needed = math.ceil(count * self.fraction_train)
        wanted = min(count, math.ceil(needed * (1 + self.over_sampling)))
        return list(generator(self.seed, server_round, "selection").choice(count, wanted, replace=False))

    def exhausted(self) -> str:
        """That the privacy budget allows no further round."""
        return self.private.account.exhausted() if self.private is not None else ""

    def published(self, report: RoundReport) -> RoundReport:
        """The report; where models are private, without what clients measured and with epsilon."""
        return self.private.published(report) if self.private is not None else report

    def objection(self, update: Update) -> str:
        """That a reach is missing, or no number above 0, where the rule or the control variates divide by it."""
        if update.weight > 0 and (self.control is not None or isinstance(self.rule, FedNova)):
            try:
                check_reach(update.sums.get(REACH, math.nan), ", ".join(update.clients))
            except ShapeError as error:
                return str(error)
        return ""

    def receive(self, message: Message, update: Update) -> Message:
        """Put an accepted update's arrays on the stack; answers the message without them.

        Raises:
            StaleUpdate: the client is in already.
            OSError: updates no longer fit into memory, and the disk is full or fails.
        """
        self._put(sender(message), update.arrays, update.weight, update.sums)
        message.content = RecordDict({**message.content, ARRAYS: ArrayRecord()})
        return message

    def _put(
        self, client: str, arrays: Arrays, weight: float, sums: Mapping[str, Any], *, is_held: bool = False
    ) -> None:
        weight = float(weight > 0) if self.equal_weights else weight
        self.stack.put(client, arrays, weight, reach=float(sums.get(REACH, math.nan)), is_held=is_held)
        if sums.get(LOST):
            self._lost.add(client)

    def refuse(self, client: str) -> None:
        """Count a client whose reply was refused for what it held among the bad ones that the rule withstands."""
        self._refused.add(client)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """One model of the replied ones and sums of the replied metrics; (None, None) when the rule cannot make one."""
        sums = self._taken(server_round, replies)
        before = self._model_before()
        self.shortfall = self.exhausted()
        if self.shortfall:
            return None, None
        try:
            model = self.rule.combine(self.stack, before, refused=len(self._refused.difference(self.stack.clients)))
        except NotEnoughData as error:
            self.shortfall = str(error)
            log.warning("previous model kept round=%d updates=%d reason=%s", server_round, len(self.stack), error)
            return None, None
        model = self._counted(model, before, server_round)
        return arrays_to_record(model), MetricRecord({**sums})

    def _taken(self, server_round: int, replies: Iterable[Message]) -> dict[str, float]:
        """Put models that were not received yet on the stack; answers the sums of all metrics."""
        usable = [reply for reply in replies if reply.has_content()]
        sums: dict[str, float] = {}
        for reply in sorted(usable, key=lambda one: (sender(one), node_of(one))):
            if record := reply.content.array_records[ARRAYS]:
                client = sender(reply) or f"node {node_of(reply):020d}"
                try:
                    told = dict(reply.content.metric_records[METRICS])
                    self._put(client, arrays_from_record(record), weight_of(reply), told, is_held=True)
                except StaleUpdate as error:
                    log.warning("update rejected round=%d client=%s reason=%s", server_round, client, error)
                    continue
            for name, value in reply.content.metric_records[METRICS].items():
                if isinstance(value, int | float):
                    sums[name] = sums.get(name, 0.0) + value
        return sums

    def _counted(self, model: dict[str, NDArray[Any]], before: Arrays, server_round: int) -> dict[str, NDArray[Any]]:
        """The next model, now that the rule has made one; what is remembered moves on with it."""
        if self.private is not None:
            self.private.account.count()
        if self.optimizer is not None:
            model = self.optimizer.step(before, model)
        if self.control is not None:
            if self._lost:
                log.warning("control variates begin anew round=%d lost_by=%s", server_round, sorted(self._lost))
            self.control.learn(self.stack, before, self._lost)
        return model

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What is remembered from round to round, as named arrays."""
        return {f"{part}/{name}": array for part, one in self._parts() for name, array in one.state_dict().items()}

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from what `state_dict` gave; an empty one is a beginning.

        Raises:
            SettingsError: a part of another strategy is in it.
        """
        parts = dict(self._parts())
        found: dict[str, dict[str, NDArray[Any]]] = {part: {} for part in parts}
        for key, array in state.items():
            part, _, name = key.partition("/")
            if part not in found:
                raise SettingsError(
                    f"a run keeps its strategy, got none with {part!r}, which its checkpoint remembers; go on with the "
                    "settings that it was started with, or start a new run",
                    key="aggregation",
                )
            found[part][name] = array
        for part, one in parts.items():
            one.load_state_dict(found[part])

    def _parts(self) -> Iterator[tuple[str, ServerOptimizer | ControlVariates | Private]]:
        """What has a memory, by name."""
        if self.optimizer is not None:
            yield "optimizer", self.optimizer
        if self.control is not None:
            yield "control", self.control
        if self.private is not None:
            yield "privacy", self.private

    def _model_before(self) -> dict[str, NDArray[Any]]:
        """The model that was sent, in the dtypes of what came back: a record shows bfloat16 as whole numbers."""
        if len(self.stack):
            return arrays_from_record(self._before, self.stack.layout.reference)
        return arrays_from_record(self._before) if self.private is not None else {}

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
        told = (self.rule, self.optimizer, self.fraction_train, self.seed)
        log.info("strategy=%s optimizer=%s fraction_train=%g seed=%d", *told)
