"""Reverb, as its own documentation inserts and samples, for benchmarks/replay_served.py.

    PYTHON benchmarks/replay_served_peers.py SECONDS

Runs in an environment of its own; prints one JSON line: rows a second of samples and inserts. The server is another
process. Reverb inserts one item a call, which is its interface, and samples through TimestepDataset, its fastest path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import reverb
import tensorflow as tf

BATCH, ROWS = 256, 40_000
SHAPES = {"observation": (17,), "action": (6,), "reward": (), "next_observation": (17,)}


def serve() -> None:
    signature = {name: tf.TensorSpec(shape, tf.float32) for name, shape in SHAPES.items()}
    table = reverb.Table(
        "t",
        reverb.selectors.Uniform(),
        reverb.selectors.Fifo(),
        max_size=ROWS,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={**signature, "terminated": tf.TensorSpec((), tf.bool)},
    )
    server = reverb.Server([table], port=None)
    print(server.port, flush=True)
    server.wait()


def transition() -> dict[str, np.ndarray]:
    row = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    return {**row, "terminated": np.bool_(False)}  # noqa: FBT003  # NumPy's


def measured(step: object, rows: int, seconds: float) -> float:
    """Rows a second of a step of so many rows."""
    count, began = 0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        step()
        count += rows
    return count / (now - began)


def main(seconds: float) -> None:
    with subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  # ours
        try:
            address = f"localhost:{int(server.stdout.readline())}"
            client, row = reverb.Client(address), transition()
            with client.trajectory_writer(num_keep_alive_refs=1) as writer:

                def insert() -> None:
                    writer.append(row)
                    writer.create_item("t", 1.0, {name: writer.history[name][-1] for name in row})

                for number in range(5000):
                    insert()
                    if number % 500 == 0:
                        writer.flush()

                def insert_batch() -> None:
                    for _ in range(BATCH):
                        insert()
                    writer.flush()

                inserts = measured(insert_batch, BATCH, seconds)
            dataset = reverb.TimestepDataset.from_table_signature(
                address, "t", max_in_flight_samples_per_worker=2 * BATCH
            )
            batches = iter(dataset.batch(BATCH))
            for _ in range(5):
                next(batches)
            samples = measured(lambda: next(batches), BATCH, seconds)
        finally:
            server.kill()
    print(json.dumps({"reverb sample": {"rows_per_second": samples}, "reverb insert": {"rows_per_second": inserts}}))


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else main(float(sys.argv[1]))
