"""TensorFlow I/O and Quix Streams, as their own documentation reads a topic, for benchmarks/kafka.py.

    PYTHON benchmarks/kafka_peers.py tensorflow-io|quixstreams JSON

Runs in an environment of its own; prints one JSON line: seconds, CPU seconds and rows behind the first tenth.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROWS, FEATURES = 256, 32


class Clock:
    """Counts rows and starts itself behind the first tenth."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.total = about["records"] * (ROWS if about["packed"] else 1)
        self.warm = about["warm"] * self.total
        self.rows, self.began = 0, None

    def saw(self, rows: int) -> bool:
        self.rows += rows
        if self.began is None and self.rows >= self.warm:
            self.began = (time.perf_counter(), time.process_time(), self.rows)
        return self.rows < self.total

    def say(self) -> None:
        seconds, cpu, rows = self.began
        found = {"seconds": time.perf_counter() - seconds, "cpu": time.process_time() - cpu, "rows": self.rows - rows}
        print(json.dumps(found), flush=True)


def tensorflow_io(about: dict[str, Any]) -> None:
    import tensorflow as tf
    import tensorflow_io as tfio

    tf.config.threading.set_intra_op_parallelism_threads(1)
    width = 4 * FEATURES
    dataset = tfio.IODataset.from_kafka(
        about["topic"], partition=0, start=0, stop=about["records"], servers=about["address"]
    )
    if about["packed"]:

        def decode(message: Any) -> Any:
            tail = tf.strings.substr(message, -ROWS * width, ROWS * width)
            return tf.reshape(tf.io.decode_raw(tail, tf.float32), (ROWS, FEATURES))

        batches = dataset.map(lambda message, *_: decode(message))
    else:
        at = about["offsets"]["x"]

        def decode_many(messages: Any) -> Any:
            rows = tf.strings.substr(messages, at, width)
            return tf.io.decode_raw(rows, tf.float32)

        batches = dataset.map(lambda message, *_: message).batch(ROWS).map(decode_many)
    clock = Clock(about)
    for batch in batches:
        if not clock.saw(int(batch.shape[0])):
            break
    clock.say()


def quixstreams(about: dict[str, Any]) -> None:
    from quixstreams import Application

    app = Application(
        broker_address=about["address"],
        consumer_group=f"quix-{os.getpid()}",
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel="ERROR",
    )
    clock, x, left = Clock(about), np.empty((ROWS, FEATURES), np.float32), []
    row = np.dtype(
        {
            "names": ["x"],
            "formats": [("f4", FEATURES)],
            "offsets": [about["offsets"].get("x", 0)],
            "itemsize": max(about["row_bytes"], 4 * FEATURES),
        }
    )

    def learn(value: bytes) -> None:
        if about["packed"]:
            x[:] = np.frombuffer(value, np.float32, ROWS * FEATURES, len(value) - ROWS * 4 * FEATURES).reshape(x.shape)
            more = clock.saw(ROWS)
        else:
            left.append(value)
            if len(left) == ROWS:
                x[:] = np.frombuffer(b"".join(left), row)["x"]
                left.clear()
            more = clock.saw(1)
        if not more:
            app.stop()

    topic = app.topic(about["topic"], value_deserializer="bytes")
    app.dataframe(topic).update(learn)
    app.run()
    clock.say()


if __name__ == "__main__":
    {"tensorflow-io": tensorflow_io, "quixstreams": quixstreams}[sys.argv[1]](json.loads(sys.argv[2]))
