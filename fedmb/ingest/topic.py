"""Names of topics and numbers of partitions, by Kafka's rules, so that a file log can move to a broker unchanged."""

from __future__ import annotations

import re

from fedmb.errors import SettingsError
from fedmb.ledger import StreamPartition

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def check_topic(topic: str) -> None:
    """Accept what Kafka accepts as a topic's name.

    Raises:
        SettingsError: the name is empty, too long, `.`, `..`, or holds another character.
    """
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise SettingsError(
            f"a topic's name must be 1 to 249 of the characters a-z A-Z 0-9 . _ - and neither . nor .., got {topic!r}; "
            "rename the topic",
            key="topic",
        )


def check_partition(partition: int) -> None:
    """Accept a number from 0.

    Raises:
        SettingsError: the number is negative or no whole number.
    """
    if type(partition) is not int or partition < 0:
        raise SettingsError(
            f"a partition must be a whole number from 0, got {partition!r}; count partitions from 0", key="partition"
        )


def stream_partition(log: str, topic: str, partition: int) -> StreamPartition:
    """The checked name of one partition of one topic of the log `log`.

    Raises:
        SettingsError: topic or partition break Kafka's rules.
    """
    check_topic(topic)
    check_partition(partition)
    return StreamPartition(log, topic, partition)
