"""One member of a group that learns a topic beside others, judged by a ledger in SQLite; run as a process.

python kafka_member.py ADDRESS TOPIC DRIVER LEDGER
"""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing

from fedmb.ingest import confluent_settings, kafka_python_driver
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_reader import KafkaReader

SESSION_SECONDS = 2.0  # a test does not wait for a silent member as long as a trainer may
STEP_SECONDS = 0.03  # a round's work, during which a member is killed or loses partitions
STEP_RECORDS = 40

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (partition INTEGER PRIMARY KEY, offset INTEGER);
CREATE TABLE IF NOT EXISTS learnt (partition INTEGER, offset INTEGER);
CREATE TABLE IF NOT EXISTS rejected (member INTEGER);
"""


def opened(path: str) -> sqlite3.Connection:
    ledger = sqlite3.connect(path, timeout=30, isolation_level=None)
    ledger.execute("PRAGMA journal_mode=WAL")
    ledger.executescript(SCHEMA)
    return ledger


def position(ledger: sqlite3.Connection, partition: int) -> int:
    return (ledger.execute("SELECT offset FROM ledger WHERE partition = ?", (partition,)).fetchone() or (0,))[0]


def accepted(ledger: sqlite3.Connection, partition: int, start: int, offsets: list[int], member: int) -> bool:
    """Whether the span starts where the ledger stands; ledger and what was learnt change together."""
    ledger.execute("BEGIN IMMEDIATE")
    is_next = position(ledger, partition) == start
    if is_next:
        ledger.execute("INSERT OR REPLACE INTO ledger VALUES (?, ?)", (partition, offsets[-1] + 1))
        ledger.executemany("INSERT INTO learnt VALUES (?, ?)", [(partition, offset) for offset in offsets])
    else:
        ledger.execute("INSERT INTO rejected VALUES (?)", (member,))
    ledger.execute("COMMIT")
    return is_next


def learn(address: str, topic: str, driver: str, path: str) -> None:
    kafka_python_driver.SESSION_SECONDS = confluent_settings.SESSION_SECONDS = SESSION_SECONDS
    connection = KafkaConnection(servers=(address,), driver=driver, group=f"of-{topic}")
    taken: dict[int, int] = {}
    with closing(opened(path)) as ledger, closing(KafkaReader("here", topic, [], connection)) as reader:
        print("ready", flush=True)
        member = id(reader)
        while True:
            mine = {name.partition: name for name in reader.refresh(1.0)}
            taken = {number: taken.get(number) or position(ledger, number) for number in mine}
            for number, offset in taken.items():
                reader.seek(mine[number], offset)
            spans: dict[int, list[int]] = {}
            for record in reader.poll(0.2, STEP_RECORDS):
                spans.setdefault(record.partition.partition, []).append(record.offset)
            time.sleep(STEP_SECONDS)
            for number, offsets in spans.items():
                if number in taken and accepted(ledger, number, taken[number], offsets, member):
                    taken[number] = offsets[-1] + 1
                else:
                    taken.pop(number, None)  # seek back to the ledger


if __name__ == "__main__":
    learn(*sys.argv[1:])
