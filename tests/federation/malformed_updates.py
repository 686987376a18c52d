"""Ten clients, of which the last sends in round 2 what is no update: some forty kinds of it."""

import json
from functools import partial

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmb.errors import NotEnoughData
from fedmb.federation import guard
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import reply_to
from fedmb.federation.model_record import flat_to_record
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.ledger import Position, Span, StreamPartition
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update

CLIENTS = 10
BAD = "client-9"
SHAPE = (3, 4)
ROWS = 4  # of a record


def partition_of(client):
    return StreamPartition(client, "rows", 0)


def learnt(client, instruction):
    """An update that follows from the client's name, the round and the model alone, with a stretch of its stream."""
    draws = np.random.default_rng([int(client[-1]), instruction.base_version])
    arrays = {
        name: array + draws.standard_normal(array.shape).astype(array.dtype) * np.float32(0.1)
        if array.dtype == np.float32
        else array + 1
        for name, array in sorted(instruction.arrays.items())
    }
    weight, version = float(10 + int(client[-1])), instruction.base_version
    stretch = Span(Position(ROWS * version), Position(ROWS * (version + 1)))
    position = {"source": {"ledger": {str(partition_of(client)): list(stretch.stop)}}}
    sums = {"units": weight, "loss": weight * draws.uniform(0.5, 1.0)}
    return Update(arrays, weight, version, {client: position}, {partition_of(client): stretch}, sums, {"stream": ROWS})


def start():
    return ServerState(0, {"w": np.zeros(SHAPE, np.float32), "b": np.ones(4, np.float32), "seen": np.array(7)})


def grid_of(spoil, kind=InProcessGrid):
    """Ten clients, of which the last sends in round 2 what `spoil` makes of its reply."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["client"]
        reply = reply_to(message, partial(learnt, client), client=client)
        if client == BAD and reply.content.config_records["update"]["fedmb-base-version"] == 1:
            changed = spoil(reply)
            return reply if changed is None else changed
        return reply

    return kind(app, {10 + k: {"client": f"client-{k}"} for k in range(CLIENTS)})


def run(grid, strategy=None, *, count=2, **rounds):
    reports = []
    loop = RoundLoop(
        grid,
        strategy or MiniBatchFedAvg(),
        Rounds(count=count, **rounds),
        on_round=lambda state, report: reports.append(report),
    )
    return loop.run(start()), reports


def fails(reply):
    raise NotEnoughData("the disk is gone")


def model(reply, **changes):
    """Another model in the reply, in the flat form, with the layout that fits it."""
    arrays = {name: np.array(array) for name, array in ARRAYS.items()} | changes
    record, layout = flat_to_record({name: array for name, array in arrays.items() if array is not None})
    reply.content["arrays"] = record
    about(reply, **{"fedmb-layout": layout.text})


ARRAYS = start().arrays


def about(reply, **changes):
    reply.content.config_records["update"].update(changes)


def metrics(reply, **changes):
    reply.content.metric_records["metrics"].update({name.replace("_", "-"): value for name, value in changes.items()})


def entry(reply, value):
    """The entry of all float32 arrays as something else."""
    reply.content["arrays"] = ArrayRecord({**reply.content["arrays"], "float32": value})


def of_bytes(change):
    def spoil(reply):
        one = reply.content["arrays"]["float32"]
        entry(reply, Array(one.dtype, one.shape, one.stype, change(one.data)))

    return spoil


def empty(reply):
    reply.content = RecordDict()


def million_keys(reply):
    record, one = reply.content["arrays"], Array(np.zeros(1))
    record.__dict__["_data"].update({f"x{at}": one for at in range(1_000_000)})


def names_of_paths(reply):
    layout = json.loads(reply.content.config_records["update"]["fedmb-layout"])
    about(reply, **{"fedmb-layout": json.dumps([["../../" + name, *rest] for name, *rest in layout])})


def bound_to_nobody(reply):
    del reply.content["update"]


def another_stream(reply):
    about(reply, spans=json.dumps({str(partition_of("client-0")): [[ROWS, 0], [2**40, 0]]}))


def another_position(reply):
    about(reply, position=json.dumps({"source": {"ledger": {str(partition_of("client-0")): [0, 0]}}}))


def spans(*ends):
    return lambda reply: about(reply, spans=json.dumps({str(partition_of(BAD)): [list(end) for end in ends]}))


def extra_records(reply):
    reply.content["more"] = MetricRecord({"x": 1.0})
    metrics(reply, **{f"figure {at}": 1.0 for at in range(2000)})


OVERSIZE = guard._BESIDE_MODEL + (1 << 20)
KINDS = {
    # the reference's: what Flower's strategies let in, or die of
    "NaN": partial(model, w=np.full(SHAPE, np.nan, np.float32)),
    "infinity": partial(model, w=np.full(SHAPE, np.inf, np.float32)),
    "1e30": partial(model, w=np.full(SHAPE, 1e30, np.float32)),
    "another shape": partial(model, w=np.zeros((4, 4), np.float32)),
    "a shape that numpy would broadcast": partial(model, w=np.zeros((1, 4), np.float32)),
    "a key that is missing": partial(model, b=None),
    "a key too many": partial(model, more=np.zeros(3, np.float32)),
    "text": lambda reply: entry(reply, Array(np.array(["poison"] * 16))),
    "another dtype": partial(model, w=np.zeros(SHAPE)),
    "a pickle": of_bytes(lambda data: b"\x93NUMPY\x01\x00v\x00{'descr': '|O', }"),
    "weight -1e6": partial(metrics, num_examples=-1e6),
    "weight 1e12": partial(metrics, num_examples=1e12),
    "weight NaN": partial(metrics, num_examples=float("nan")),
    # and ours
    "oversize": partial(about, rest="x" * OVERSIZE),
    "stale": partial(about, **{"fedmb-base-version": 0}),
    "in another's name": partial(about, client="client-0"),
    "empty": empty,
    "a million keys": million_keys,
    "names that are paths": names_of_paths,
    "torn": of_bytes(lambda data: data[: len(data) // 2]),
    # and more of the same
    "from the future": partial(about, **{"fedmb-base-version": 7}),
    "in a new name": partial(about, client="client-77"),
    "a client that is a path": partial(about, client="../../etc"),
    "no client": bound_to_nobody,
    "another's stream": another_stream,
    "another's place": another_position,
    "a span with a gap": spans((99, 0), (100, 0)),
    "a span backwards": spans((ROWS, 0), (1, 0)),
    "a span beyond all offsets": spans((ROWS, 0), (2**80, 0)),
    "two thousand figures and a record": extra_records,
    "a loss that is NaN": partial(metrics, loss=float("nan")),
    "units 1e15": partial(metrics, units=1e15),
    "rows below zero": partial(about, rows=json.dumps({"stream": -5})),
    "a figure that is a list": partial(metrics, num_examples=[1.0]),
    "a place a thousand deep": partial(about, position='{"source":' + "[" * 900 + "]" * 900 + "}"),
    "a place that is NaN": partial(about, position='{"source": {"at": NaN}}'),
    "another fedmb": partial(about, **{"fedmb-version": "9.9.9"}),
    "compressed unasked": partial(about, **{"fedmb-form": "int8"}),
}
