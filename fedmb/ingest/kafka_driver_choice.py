"""The library that a connection names, behind the one seam."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.ingest.kafka_connection import KafkaConnection
    from fedmb.ingest.kafka_driver import KafkaDriver


def open_driver(log_id: str, topic: str, connection: KafkaConnection, *, is_member: bool = False) -> KafkaDriver:
    """A connected driver of the library that the connection names.

    Blocks until a broker answers, `connect_seconds` at most.

    Args:
        log_id: log of the partitions that records name.
        topic: theirs.
        connection: where and who.
        is_member: read what the connection's group gives to this member; its offsets play no part.

    Raises:
        SettingsError: the library is not installed, or a file that the connection names cannot be read.
        Exception: no broker answers, or not as expected.
    """
    if connection.driver == "confluent":
        from fedmb.ingest.confluent_driver import ConfluentDriver

        return ConfluentDriver(log_id, topic, connection, is_member=is_member)
    from fedmb.ingest.kafka_python_driver import KafkaPythonDriver

    return KafkaPythonDriver(log_id, topic, connection, is_member=is_member)
