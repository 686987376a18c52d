"""What is asked of a cluster beside its records: who it is, what a topic has, a topic's making.

Always by kafka-python, whichever library moves the records: these are a few small requests.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

from fedmb.errors import AccessDenied, FedmbError, SettingsError, Unreachable
from fedmb.ingest.kafka_diagnosis import diagnosed, reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmb.ingest.kafka_connection import KafkaConnection

# Kafka's error codes; both libraries use the numbers.
UNKNOWN_TOPIC, LEADER_MISSING, TOO_LARGE, TOPIC_DENIED, GROUP_DENIED, CLUSTER_DENIED = 3, 5, 10, 29, 30, 31
TOPIC_EXISTS, BAD_REPLICATION, POLICY_VIOLATION, BATCH_TOO_LARGE = 36, 38, 44, 18
_DENIED = {TOPIC_DENIED, GROUP_DENIED, CLUSTER_DENIED}
_MESSAGE_BYTES_KEY = "max.message.bytes"
_MESSAGE_BYTES = 1048588  # the broker's default for max.message.bytes, assumed where we may not ask


def refusal(connection: KafkaConnection, code: int, doing: str, operations: str) -> FedmbError | None:
    """What an error code of a broker means for us; None where it is no refusal.

    Args:
        connection: who asked.
        code: Kafka's number of the error.
        doing: what was asked, such as `write to digits`.
        operations: what must be granted for that, such as `WRITE on the topic digits`.
    """
    if code not in _DENIED:
        return None
    user = f"user {connection.user}" if connection.user else "a client without a user"
    if connection.tls_certificate and not connection.user:
        user = f"the holder of {connection.tls_certificate}"
    return AccessDenied(f"{user} must be allowed to {doing}, and the brokers refuse (error {code}); grant {operations}")


class KafkaCluster:
    """An open connection for questions; used by one thread.

    Args:
        connection: where and who.

    Raises:
        Unreachable: no broker answers.
        AccessDenied: the brokers refuse who we are, or we them.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        self._connection = connection
        reach(connection)
        try:
            self._admin: Any = KafkaAdminClient(**connection.kafka_python())  # untyped library
        except KafkaError as error:
            raise diagnosed(connection, error) from error

    def id(self) -> str:
        """The cluster's own id.

        Raises:
            Unreachable: no answer.
        """
        with self._asking("describe the cluster", "DESCRIBE on the cluster"):
            return str(self._admin.describe_cluster()["cluster_id"])

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Numbers of a topic's partitions, ascending; none while it does not exist.

        Raises:
            AccessDenied: we may not see it.
            Unreachable: no answer.
        """
        with self._asking(f"see {topic}", f"DESCRIBE on the topic {topic}"):
            (found,) = self._admin.describe_topics([topic])
            if found["error_code"] == UNKNOWN_TOPIC:
                return ()
            if found["error_code"] not in {0, LEADER_MISSING}:
                self._refuse(found["error_code"], f"see {topic}", f"DESCRIBE on the topic {topic}")
            return tuple(sorted(partition["partition_index"] for partition in found["partitions"]))

    def create(self, topic: str, *, partitions: int, message_bytes: int | None = None) -> None:
        """Make a topic with the connection's `create_replication`, and wait until it can be written to.

        One that another client makes at the same moment is as good.

        Args:
            topic: its name.
            partitions: how many it gets.
            message_bytes: longest batch that it takes; the cluster's default if None.

        Raises:
            AccessDenied: we may not.
            SettingsError: the cluster cannot make it so.
            Unreachable: no answer.
        """
        from kafka.errors import InvalidReplicationFactorError, PolicyViolationError, TopicAlreadyExistsError

        wanted: dict[str, object] = {
            "num_partitions": partitions,
            "replication_factor": self._connection.create_replication,
        }
        if message_bytes is not None:
            wanted["configs"] = {_MESSAGE_BYTES_KEY: str(message_bytes)}
        with self._asking(f"make {topic}", f"CREATE on the topic {topic}, or make it with kafka-topics"):
            try:
                self._admin.create_topics({topic: wanted})
            except TopicAlreadyExistsError:
                pass
            except (InvalidReplicationFactorError, PolicyViolationError) as error:
                raise SettingsError(
                    f"a cluster must be able to make {topic} with {wanted}, the brokers say: {error}; set "
                    "create_replication to the number of brokers at most, or make the topic with kafka-topics",
                    key="create_replication",
                ) from error
            self._admin.wait_for_topics([topic])

    def extend(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions, so that it has this many.

        Raises:
            AccessDenied: we may not.
            Unreachable: no answer.
        """
        from kafka.errors import InvalidPartitionsError

        doing, operations = f"add partitions to {topic}", f"ALTER on the topic {topic}"
        with self._asking(doing, operations), contextlib.suppress(InvalidPartitionsError):  # another client was faster
            self._admin.create_partitions({topic: partitions})
            self._admin.wait_for_topics([topic])

    def end_offset(self, topic: str, partition: int) -> int:
        """Offset that the next record of a partition gets.

        Raises:
            AccessDenied: we may not see it.
            Unreachable: no answer.
        """
        from kafka import TopicPartition

        with self._asking(f"see {topic}", f"DESCRIBE on the topic {topic}"):
            place = TopicPartition(topic, partition)
            latest = -1  # Kafka's word for the end
            return int(self._admin.list_partition_offsets({place: latest})[place].offset)

    def message_bytes(self, topic: str) -> int:
        """Longest batch that a topic takes; Kafka's default where we may not ask, or there is no such topic.

        Raises:
            Unreachable: no answer.
        """
        from kafka.admin import ConfigResource

        key = _MESSAGE_BYTES_KEY
        with contextlib.suppress(AccessDenied), self._asking(f"see {topic}", "DESCRIBE_CONFIGS"):
            asked = [ConfigResource("topic", topic, {key: None})]
            found = self._admin.describe_configs(asked, config_filter="all")
            if key in found["topic"][topic]:
                return int(found["topic"][topic][key]["value"])
        return _MESSAGE_BYTES

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    @contextlib.contextmanager
    def _asking(self, doing: str, operations: str) -> Iterator[None]:
        from kafka.errors import KafkaError

        try:
            yield
        except KafkaError as error:
            self._refuse(getattr(error, "errno", None) or 0, doing, operations, error)

    def _refuse(self, code: int, doing: str, operations: str, error: Exception | None = None) -> NoReturn:
        denied = refusal(self._connection, code, doing, operations)
        if denied:
            raise denied from error
        raise Unreachable(
            f"{', '.join(self._connection.servers)} must let us {doing}, got {error or f'error {code}'}; try again, "
            "and look into the brokers' logs"
        ) from error
