"""Replay buffers of others, as their own documentation uses them, for benchmarks/replay.py.

    PYTHON benchmarks/replay_peers.py cpprb|tianshou|torchrl|flashbax|rllib|reverb

Each runs in an environment of its own and answers requests as `replay_items.serve` has them. Buffers are full before
they are measured. tianshou adds a batch through a buffer for as many environments, and everything else through one for
a single environment, which is the fastest it has for each. RLlib and Reverb hold fewer rows: they take minutes to fill.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

sys.path.append(sys.path.pop(0))  # files of libraries' names lie in this folder

from replay_items import (
    ADD,
    ADD_ONE,
    ALPHA,
    BATCH,
    BETA,
    PRIORITIZED,
    SAMPLE,
    Items,
    one_thread,
    priorities,
    serve,
    turning,
)

one_thread()

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Calls = dict[str, Callable[[], object]]


def cpprb(items: Items, capacity: int, prioritized: bool) -> Calls:
    from cpprb import PrioritizedReplayBuffer, ReplayBuffer

    form = {name: {"shape": one.shape[1:] or 1, "dtype": one.dtype} for name, one in items.columns.items()}
    buffer = PrioritizedReplayBuffer(capacity, form, alpha=ALPHA) if prioritized else ReplayBuffer(capacity, form)
    while buffer.get_stored_size() < capacity:
        buffer.add(**items.columns)
    row, batch, weights = turning(items.rows()), turning(items.batches()), turning(priorities())

    def cycle() -> None:
        sample = buffer.sample(BATCH, beta=BETA)
        buffer.update_priorities(sample["indexes"], weights())

    if prioritized:
        return {PRIORITIZED: cycle}
    return {
        ADD_ONE: lambda: buffer.add(**row()),
        ADD: lambda: buffer.add(**batch()),
        SAMPLE: lambda: buffer.sample(BATCH),
    }


def tianshou(items: Items, capacity: int, prioritized: bool) -> Calls:
    import torch
    from tianshou.data import Batch, PrioritizedReplayBuffer, ReplayBuffer, VectorReplayBuffer

    torch.set_num_threads(1)
    renamed = {"next_obs": "obs_next", "done": "terminated"}

    def given(values: dict[str, Any]) -> dict[str, Any]:
        found = {renamed.get(name, name): value for name, value in values.items()}
        return {**found, "truncated": np.zeros_like(found["terminated"], dtype=bool)}

    def full(buffer: Any) -> Any:
        """Through its own arrays, which it makes at the first row; by `add` it would take a minute."""
        single = isinstance(buffer, ReplayBuffer) and not isinstance(buffer, VectorReplayBuffer)
        first = {name: one[0] if single else one[:BATCH] for name, one in given(items.columns).items()}
        buffer.add(Batch(**first)) if single else buffer.add(Batch(**first), buffer_ids=np.arange(BATCH))
        for name, column in given(items.columns).items():
            target = buffer._meta[name]  # noqa: SLF001  # as its `from_data` does
            for start in range(0, len(target), len(items)):
                target[start : start + len(items)] = column[: len(target) - start]
        buffer._meta.done[:] = buffer._meta.terminated  # noqa: SLF001  # as above
        if single:
            buffer._size = capacity  # noqa: SLF001  # as above
        return buffer

    if prioritized:
        buffer = full(PrioritizedReplayBuffer(capacity, ALPHA, BETA))
        buffer.init_weight(np.arange(capacity))
        weights = turning(priorities())

        def cycle() -> None:
            _, indices = buffer.sample(BATCH)
            buffer.update_weight(indices, weights())

        return {PRIORITIZED: cycle}
    one = full(ReplayBuffer(capacity))
    many = functools.lru_cache(maxsize=1)(lambda: full(VectorReplayBuffer(capacity, BATCH)))
    row = turning([given(values) for values in items.rows()])
    batch = turning([given(values) for values in items.batches()])
    every = np.arange(BATCH)
    return {
        ADD_ONE: lambda: one.add(Batch(**row())),
        ADD: lambda: many().add(Batch(**batch()), buffer_ids=every),
        SAMPLE: lambda: one.sample(BATCH),
    }


def torchrl(items: Items, capacity: int, prioritized: bool) -> Calls:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, PrioritizedSampler, ReplayBuffer

    torch.set_num_threads(1)
    sampler = {"sampler": PrioritizedSampler(capacity, ALPHA, BETA)} if prioritized else {}
    buffer = ReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=BATCH, **sampler)
    whole = TensorDict({name: torch.from_numpy(one) for name, one in items.columns.items()}, [len(items)])
    while len(buffer) < capacity:
        buffer.extend(whole)
    row, batch = turning(items.rows()), turning(items.batches())
    weights = turning([torch.from_numpy(one) for one in priorities()])

    def cycle() -> None:
        _, info = buffer.sample(return_info=True)
        buffer.update_priority(info["index"], weights())

    def tensors(values: dict[str, Any]) -> dict[str, Any]:
        return {name: torch.as_tensor(value) for name, value in values.items()}

    if prioritized:
        return {PRIORITIZED: cycle}
    return {
        ADD_ONE: lambda: buffer.add(TensorDict(tensors(row()), [])),
        ADD: lambda: buffer.extend(TensorDict(tensors(batch()), [BATCH])),
        SAMPLE: buffer.sample,
    }


def flashbax(items: Items, capacity: int, prioritized: bool) -> Calls:
    import flashbax as fbx
    import jax

    lengths = {"max_length": capacity, "min_length": BATCH, "sample_batch_size": BATCH}
    more = {"priority_exponent": ALPHA} if prioritized else {}
    make = fbx.make_prioritised_item_buffer if prioritized else fbx.make_item_buffer
    single, many = make(**lengths, **more), make(**lengths, add_batches=True, **more)
    add_one, add = jax.jit(single.add, donate_argnums=0), jax.jit(many.add, donate_argnums=0)
    draw = jax.jit(many.sample)
    rows = [{name: np.asarray(value, items.columns[name].dtype) for name, value in row.items()} for row in items.rows()]
    state = many.init(rows[0])
    for _ in range(-(-capacity // len(items))):
        state = add(state, items.columns)
    keys = turning(list(jax.random.split(jax.random.PRNGKey(0), 1024)))
    row, batch, weights = turning(rows), turning(items.batches()), turning(priorities())

    def append(function: Callable[..., Any], values: Callable[[], Any]) -> None:
        nonlocal state
        state = jax.block_until_ready(function(state, values()))

    if prioritized:
        reweigh = jax.jit(many.set_priorities, donate_argnums=0)

        def cycle() -> None:
            nonlocal state
            sample = jax.block_until_ready(draw(state, keys()))
            state = jax.block_until_ready(reweigh(state, sample.indices, weights()))

        return {PRIORITIZED: cycle}
    return {
        ADD_ONE: lambda: append(add_one, row),
        ADD: lambda: append(add, batch),
        SAMPLE: lambda: jax.block_until_ready(draw(state, keys())),
    }


def rllib(items: Items, capacity: int, prioritized: bool) -> Calls:
    from ray.rllib.policy.sample_batch import SampleBatch
    from ray.rllib.utils.replay_buffers import PrioritizedReplayBuffer, ReplayBuffer

    buffer = PrioritizedReplayBuffer(capacity, alpha=ALPHA) if prioritized else ReplayBuffer(capacity)
    for _ in range(-(-capacity // len(items))):  # it keeps what it is given, and copies nothing
        buffer.add(SampleBatch({name: column.copy() for name, column in items.columns.items()}))
    one = {name: column[:1] for name, column in items.columns.items()}
    batch, weights = turning(items.batches()), turning(priorities())

    def cycle() -> None:
        sample = buffer.sample(BATCH, beta=BETA)
        buffer.update_priorities(sample["batch_indexes"], weights())

    if prioritized:
        return {PRIORITIZED: cycle}
    return {
        ADD_ONE: lambda: buffer.add(SampleBatch(one)),
        ADD: lambda: buffer.add(SampleBatch(batch())),
        SAMPLE: lambda: buffer.sample(BATCH),
    }


def reverb(items: Items, capacity: int, prioritized: bool) -> Calls:
    import reverb
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    table = reverb.Table(
        "rows",
        sampler=reverb.selectors.Prioritized(ALPHA) if prioritized else reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=capacity,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={name: tf.TensorSpec(one.shape[1:], one.dtype) for name, one in items.columns.items()},
    )
    server = reverb.Server([table])
    client = reverb.Client(f"localhost:{server.port}")
    rows = items.rows()
    rows = [{name: np.asarray(value, items.columns[name].dtype) for name, value in row.items()} for row in rows]
    row, weights = turning(rows), turning([one.tolist() for one in priorities()])
    writer = client.writer(max_sequence_length=1)

    def append(count: int) -> None:
        for _ in range(count):
            writer.append(row())
            writer.create_item("rows", num_timesteps=1, priority=1.0)
        writer.flush()

    for _ in range(-(-capacity // 1000)):
        append(1000)

    def cycle() -> None:
        keys = [sample.info.key for (sample,) in client.sample("rows", BATCH)]
        client.mutate_priorities("rows", dict(zip(keys, weights(), strict=True)))
        assert server.port, "held here, or it would shut down"

    if prioritized:
        return {PRIORITIZED: cycle}
    drawn = reverb.TimestepDataset.from_table_signature(
        client.server_address, "rows", max_in_flight_samples_per_worker=2 * BATCH
    )
    batches = iter(drawn.batch(BATCH))
    return {
        ADD_ONE: lambda: append(1),
        ADD: lambda: append(BATCH),
        SAMPLE: lambda: (server, next(batches)),  # held, as above
    }


PEERS = {  # by name: how it is made, its package, its modules, rows at most
    "cpprb": (cpprb, "cpprb", ["cpprb"], None),
    "tianshou": (tianshou, "tianshou", ["tianshou.data"], None),
    "torchrl": (torchrl, "torchrl", ["torchrl.data"], None),
    "flashbax": (flashbax, "flashbax", ["flashbax"], None),
    "rllib": (rllib, "ray", ["ray.rllib.utils.replay_buffers"], {"small": 100_000, "large": 5000}),
    "reverb": (reverb, "dm-reverb", ["reverb", "tensorflow"], {"small": 40_000, "large": 5000}),
}

if __name__ == "__main__":
    peer, package, libraries, most = PEERS[sys.argv[1]]
    serve(peer, f"{sys.argv[1]} {version(package)}", libraries=libraries, most=most)
