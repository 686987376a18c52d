"""Groups whose members come, go, die and hang: the group says who reads what, the ledger what is learnt."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from kafka_broker import KafkaBroker
from kafka_member import SESSION_SECONDS, opened
from kafka_topics import DRIVERS, LONG, collected, fill, fill_numbered, offsets, reader, wait_until

from fedmb.ingest.kafka_membership import TICK_SECONDS, KeepAlive

MEMBER = Path(__file__).with_name("kafka_member.py")


def numbers(names) -> set[int]:
    return {name.partition for name in names}


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_member_reads_what_the_group_gives_it_from_where_it_seeks(kafka, topic, driver):
    fill_numbered(kafka.address, topic, partitions=3, count=30)
    with closing(reader(kafka.address, topic, [], driver=driver, group=f"of-{topic}")) as source:
        assert (source.partitions, source.poll(0.0)) == ((), [])
        found = source.refresh(LONG)
        assert numbers(found) == numbers(source.partitions) == numbers(source.assigned()) == {0, 1, 2}
        assert source.poll(0.5) == []  # nothing was sought yet
        for name in found:
            source.seek(name, 10 * name.partition)
        records = collected(source, 30 + 20 + 10)

        assert [offsets(records, number)[0] for number in range(3)] == [0, 10, 20]
        assert source.refresh() == found  # and what is buffered stays
        source.acknowledge({found[0]: 30}, "version 1")


@pytest.mark.parametrize("driver", DRIVERS)
def test_partitions_move_while_their_owner_is_busy_and_change_hands_at_its_next_refresh(kafka, topic, driver):
    fill_numbered(kafka.address, topic, partitions=4, count=30)
    options = {"driver": driver, "group": f"of-{topic}"}
    with closing(reader(kafka.address, topic, [], **options)) as first:
        for name in first.refresh(LONG):
            first.seek(name, 0)
        first.poll(LONG, 4)  # the rest of what was fetched lies in its inboxes
        before = numbers(first.partitions)
        with closing(reader(kafka.address, topic, [], **options)) as second:
            wait_until(lambda: len(second.refresh(0.2)) == 2)  # nobody polls the first meanwhile

            wait_until(lambda: len(first.assigned()) == 2)
            assert before == numbers(first.partitions) == {0, 1, 2, 3}
            wait_until(lambda: {r.partition.partition for r in first.poll(0.1)} <= numbers(first.assigned()))
            first.seek(next(name for name in first.partitions if name not in first.assigned()), 5)  # harmless
            assert numbers(first.refresh()) == numbers(first.assigned())
            assert numbers(first.partitions) | numbers(second.partitions) == {0, 1, 2, 3}
            assert not numbers(first.partitions) & numbers(second.partitions)
        wait_until(lambda: len(first.refresh(0.2)) == 4)  # it left
        for name in first.partitions:
            first.seek(name, 30)
            fill(kafka.address, topic, [b"after"], partition=name.partition)
        assert set(offsets(collected(first, 4), 2)) == {30}


class Members:
    """Three processes that learn one topic beside each other."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        self.arguments = arguments
        self.stack = stack
        self.running: list[subprocess.Popen] = []
        for _ in range(3):
            self.start()

    def start(self) -> None:
        command = [sys.executable, str(MEMBER), *self.arguments]
        process = self.stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        self.stack.callback(process.kill)
        process.stdout.readline()
        self.running.append(process)

    def take(self, chance: random.Random) -> subprocess.Popen:
        return self.running.pop(chance.randrange(len(self.running)))


@pytest.mark.parametrize("driver", DRIVERS)
def test_members_that_are_killed_or_come_back_as_zombies_lose_and_double_nothing(topic, tmp_path, driver):
    partitions, count, chance = 4, 1500, random.Random(11)
    path = str(tmp_path / "ledger.sqlite")
    settings = {"group.min.session.timeout.ms": "1000"}
    with KafkaBroker(settings=settings) as broker, closing(opened(path)) as ledger, ExitStack() as stack:
        fill_numbered(broker.address, topic, partitions=partitions, count=count)
        members = Members(stack, broker.address, topic, driver, path)

        def learnt() -> int:
            return ledger.execute("SELECT count(*) FROM learnt").fetchone()[0]

        goal = partitions * count
        for share in (0.15, 0.4):
            wait_until(lambda share=share: learnt() > share * goal)
            members.take(chance).kill()
            zombie = members.take(chance)
            zombie.send_signal(signal.SIGSTOP)
            members.start()
            thaw = threading.Timer(1.5 * SESSION_SECONDS, zombie.send_signal, (signal.SIGCONT,))
            thaw.start()
            stack.callback(thaw.join)
            members.running.append(zombie)
        wait_until(lambda: learnt() >= goal, 3 * LONG)
        found = ledger.execute("SELECT partition, offset FROM learnt ORDER BY partition, offset").fetchall()
        rejected = ledger.execute("SELECT count(*) FROM rejected").fetchone()[0]
    print(f"driver={driver} learnt={len(found)} rejected={rejected}")

    assert found == list(itertools.product(range(partitions), range(count)))


def test_a_keep_alive_ticks_until_it_is_closed():
    ticks = []
    keep_alive = KeepAlive(lambda: ticks.append(time.monotonic()))
    wait_until(lambda: len(ticks) >= 2)
    keep_alive.close()
    wait_until(lambda: not any(thread.name == "fedmb-membership" for thread in threading.enumerate()))

    assert ticks[1] - ticks[0] >= TICK_SECONDS / 2
