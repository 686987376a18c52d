"""How fast records of a real broker become contiguous tensors: bare clients, other stream trainers, and ours.

    python benchmarks/kafka.py [--quick] [--turns 5] [--peers PYTHON] [--json PATH]

One broker (FEDMB_KAFKA, or one started here), two topics of the same rows of 32 float32 and a label: `packed`, 256 rows
a record, and `samples`, one row a record. Contenders read a topic from its start into tensors `(256, 32)`, in turns
within one run; the clock of each starts behind its first tenth, so that connecting is not counted. Bare clients decode
with one `np.frombuffer` at a known place and check nothing: the least that anybody could write by hand; "checked" are
the same with a look at each packed record's checksum and numbers. Ours checks schema, checksum and numbers. All fetch
up to 4 MiB of a partition at once. Printed: rows and records a second, CPU seconds, and of the paired ratios to
kafka-python the median and the middle half.

TensorFlow I/O and Quix Streams run in an environment of their own (`make bench-kafka` makes it where they install).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

# This folder goes last, since a file of the client's name lies in it: this one.
sys.path.append(sys.path.pop(0))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from kafka_broker import KafkaBroker
from kafka_contenders import FEATURES, ROWS, SCHEMA, Topic, aiokafka, confluent, kafka_python, ours, peer

from fedmb.ingest.codec import codec_headers
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ingest.stream_url import open_log

if TYPE_CHECKING:
    from collections.abc import Callable

STOCK = "kafka-python, bare"
TARGETS = {"fedmb on kafka-python": STOCK, "fedmb on confluent": "confluent, bare"}


def filled(address: str, *, quick: bool) -> list[Topic]:
    """Both topics, with the same rows."""
    random, part = np.random.default_rng(0), 10 if quick else 1
    made = str(os.getpid())
    packed, samples = PackedCodec(SCHEMA), SampleCodec(SCHEMA)
    few, many = 8000 // part, 400_000 // part
    columns = {"x": random.standard_normal((ROWS, FEATURES), np.float32), "y": random.integers(0, 10, ROWS)}
    log = open_log(f"kafka://{address}/packed-{made}?partitions=0&driver=confluent")
    writer: Any = log.writer(f"packed-{made}", 0)
    writer.append_many([packed.encode(columns)] * few, codec_headers(packed))
    writer.close()
    writer = log.writer(f"samples-{made}", 0)
    values = samples.encode_rows(columns)
    for _ in range(many // ROWS):
        writer.append_many(values)  # the reader is told the codec: headers would be half of such a record
    writer.close()
    packed_topic = Topic(f"packed-{made}", few, ROWS, np.dtype("V0"))
    row = np.dtype(
        {
            "names": ["x", "y"],
            "formats": [("<f4", FEATURES), "<i8"],
            "offsets": [0, 4 * FEATURES],
            "itemsize": samples.record_bytes,
        }
    )
    return [packed_topic, Topic(f"samples-{made}", many // ROWS * ROWS, 1, row)]


def decoding(turns: int) -> list[float]:
    """CPU microseconds to decode a packed record, measured alone, a figure a turn."""
    codec = PackedCodec(SCHEMA)
    random = np.random.default_rng(0)
    value = codec.encode({"x": random.standard_normal((ROWS, FEATURES), np.float32), "y": random.integers(0, 10, ROWS)})
    found = []
    for _ in range(turns):
        began = time.process_time()
        for _ in range(2000):
            codec.decode(value)
        found.append((time.process_time() - began) / 2000 * 1e6)
    return found


def file_log() -> dict[str, float]:
    """Bytes a second of 1 MiB records appended to a file log without fsync, and read back with every checksum."""
    value, count = np.random.default_rng(0).bytes(1 << 20), 512
    with tempfile.TemporaryDirectory() as place:
        log = FileLog.open(place, fsync=FsyncPolicy.never(), create=True)
        began = time.perf_counter()
        with closing(log.writer("t", 0)) as writer:
            for _ in range(count):
                writer.append(value)
        appended = count * len(value) / (time.perf_counter() - began)
        with closing(log.reader("t", [0])) as reader:
            began, seen = time.perf_counter(), 0
            while seen < count:
                seen += len(reader.poll(1.0))
        return {"append": appended, "read": count * len(value) / (time.perf_counter() - began)}


def measured(
    address: str, topic: Topic, contenders: dict[str, Callable[[str, Topic], dict[str, float]]], turns: int
) -> list[dict[str, Any]]:
    """Median rates and paired ratios of each contender; one that fails is left out and said so."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for turn in range(turns):
        for name in list(found)[turn % 2 :: 2] + list(found)[1 - turn % 2 :: 2]:
            try:
                found[name].append(contenders[name](address, topic))
            except (RuntimeError, ImportError, subprocess.TimeoutExpired) as error:
                print(f"{name} left out: {str(error)[-400:]}", file=sys.stderr)
                del found[name]
    stock = np.array([run["rows"] / run["seconds"] for run in found[STOCK]])
    report = []
    for name, runs in found.items():
        rates = np.array([run["rows"] / run["seconds"] for run in runs])
        beside = np.array([run["rows"] / run["seconds"] for run in found[TARGETS.get(name, STOCK)]])
        cpu = float(np.median([1e6 * run["cpu"] / run["rows"] * topic.rows_per_record for run in runs]))
        report.append(
            {
                "contender": name,
                "rows_per_second": float(np.median(rates)),
                "records_per_second": float(np.median(rates)) / topic.rows_per_record,
                "cpu_us_per_record": cpu,
                "ratio": np.percentile(rates / stock, [25, 50, 75]).tolist(),
                "to_its_client": np.percentile(rates / beside, [25, 50, 75]).tolist() if name in TARGETS else None,
            }
        )
    return report


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the records: to see that it runs")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--peers", metavar="PYTHON", help="interpreter of an environment with tensorflow-io and quixstreams"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    contenders = {
        STOCK: kafka_python,
        "confluent, bare": confluent,
        "kafka-python, checked": partial(kafka_python, checked=True),
        "confluent, checked": partial(confluent, checked=True),
        "aiokafka, bare": aiokafka,
        "fedmb on kafka-python": ours("kafka-python"),
        "fedmb on confluent": ours("confluent"),
    }
    if arguments.peers:
        contenders |= {name: peer(arguments.peers, name) for name in ("tensorflow-io", "quixstreams")}
    broker = None if "FEDMB_KAFKA" in os.environ else KafkaBroker().start()
    address = os.environ.get("FEDMB_KAFKA") or broker.address
    report: dict[str, Any] = {}
    try:
        for topic in filled(address, quick=arguments.quick):
            kind = topic.name.split("-", maxsplit=1)[0]
            told = contenders if kind == "packed" else {n: run for n, run in contenders.items() if "checked" not in n}
            report[kind] = measured(address, topic, told, arguments.turns)
            print_table(kind, topic, report[kind])
    finally:
        if broker:
            broker.stop()
    report["targets"] = targets(report, arguments.turns)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def targets(report: dict[str, list[dict[str, Any]]], turns: int) -> list[dict[str, Any]]:
    """What the tables say of the targets, printed and answered."""
    medians = {kind: {row["contender"]: row for row in rows} for kind, rows in report.items()}
    packed, samples = medians["packed"], medians["samples"]
    decode = float(np.median(decoding(turns)))
    files = [file_log() for _ in range(turns)]
    found: list[tuple[str, float, str, float]] = []
    for name, client in TARGETS.items():
        gain = packed[name]["rows_per_second"] / samples[name]["rows_per_second"]
        found.append((f"packed to one row a record, rows/s, {name}", gain, ">=", 10.0))
        found.append((f"packed records, rows/s to {client}, {name}", packed[name]["to_its_client"][1], ">=", 0.9))
    # librdkafka does its work in C and on threads of its own: there is no client in Python to hold decoding to.
    cost = 100 * decode / packed[STOCK]["cpu_us_per_record"]
    found.append((f"decoding a packed record ({decode:.1f} us), % of the CPU time of {STOCK}", cost, "<=", 5.0))
    for name, target in (("append", 0.3), ("read", 1.0)):
        found.append((f"file log, {name}, GB/s", float(np.median([run[name] / 1e9 for run in files])), ">=", target))
    print()
    answers = []
    for what, figure, relation, target in found:
        met = figure >= target if relation == ">=" else figure <= target
        print(f"{what:<76}{figure:>7.2f}  target {relation} {target:g}: {'met' if met else 'MISSED'}")
        answers.append({"what": what, "figure": figure, "target": f"{relation} {target:g}", "met": met})
    return answers


def print_table(kind: str, topic: Topic, rows: list[dict[str, Any]]) -> None:
    print(f"\n{kind}: {topic.records:,} records of {topic.rows_per_record} rows")
    for row in rows:
        low, middle, high = row["ratio"]
        line = f"{row['contender']:<24}{row['rows_per_second']:>12,.0f} rows/s {row['records_per_second']:>9,.0f} rec/s"
        line += f" {row['cpu_us_per_record']:>7.1f} us CPU  x{middle:.2f} ({low:.2f} to {high:.2f})"
        if row["to_its_client"]:
            low, middle, high = row["to_its_client"]
            line += f"  to its client x{middle:.2f} ({low:.2f} to {high:.2f}; target 0.9)"
        print(line, flush=True)


if __name__ == "__main__":
    main()
