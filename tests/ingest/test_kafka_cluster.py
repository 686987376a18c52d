from contextlib import closing

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka_identities import PASSWORD, guarded_broker

from fedmb.errors import AccessDenied, DecodeError
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.kafka_cluster import CLUSTER_DENIED, KafkaCluster, refusal
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.log import records_between
from fedmb.ingest.stream_url import open_log


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("identities")
    (directory / "password").write_text(PASSWORD)
    with guarded_broker(directory) as broker:
        broker.password_file = directory / "password"
        yield broker


@pytest.fixture
def alice(guarded):
    """URL of a topic as the user sees it who may do nothing until she is granted it."""

    def url(topic: str, driver: str) -> str:
        identity = f"sasl=SCRAM-SHA-512&user=alice&password_file={guarded.password_file}"
        return f"kafka://127.0.0.1:{guarded.ports['USER']}/{topic}?{identity}&driver={driver}"

    return url


def grant(broker, topic: str, *operations: ACLOperation) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        admin.create_acls([ACL("User:alice", "*", one, ACLPermissionType.ALLOW, pattern) for one in operations])


def test_a_cluster_answers_for_its_topics(kafka, topic):
    with closing(KafkaCluster(KafkaConnection.of(kafka.address, {}))) as cluster:
        assert cluster.partitions(topic) == ()
        cluster.create(topic, partitions=2, message_bytes=5000)
        cluster.create(topic, partitions=9)
        cluster.extend(topic, 3)
        cluster.extend(topic, 3)

        assert cluster.partitions(topic) == (0, 1, 2)
        assert cluster.end_offset(topic, 2) == 0
        assert (cluster.message_bytes(topic), cluster.message_bytes(f"{topic}-none")) == (5000, 1048588)


@pytest.mark.parametrize("driver", ["kafka-python", "confluent"])
def test_write_is_enough_to_feed_and_read_to_learn(guarded, alice, topic, driver):
    open_log(f"kafka://{guarded.address}/{topic}").writer(topic, 0).close()
    grant(guarded, topic, ACLOperation.WRITE, ACLOperation.READ)
    log = open_log(alice(topic, driver))
    with closing(log.writer(topic, 0)) as writer:
        writer.append(b"row")
        writer.flush()
        with closing(log.reader(topic, [0])) as reader:
            (record,) = records_between(reader, 0, 1)

    assert bytes(record.value) == b"row"


@pytest.mark.parametrize("driver", ["kafka-python", "confluent"])
def test_a_user_who_may_only_read_is_told_what_to_be_granted(guarded, alice, topic, driver):
    open_log(f"kafka://{guarded.address}/{topic}").writer(topic, 0).close()
    grant(guarded, topic, ACLOperation.READ)
    with (
        closing(open_log(alice(topic, driver)).writer(topic, 0)) as writer,
        pytest.raises(
            AccessDenied, match=rf"user alice must be allowed to write to {topic}.*grant WRITE on the topic {topic}"
        ),
    ):
        writer.append(b"row")


def test_a_user_who_may_not_make_the_topic_of_dead_letters_is_told(guarded, alice, topic):
    open_log(f"kafka://{guarded.address}/{topic}").writer(topic, 0).append(b"bad")
    grant(guarded, topic, ACLOperation.READ)
    log = open_log(alice(topic, "kafka-python"))
    with closing(log.reader(topic, [0])) as reader, closing(LogDeadLetters(log)) as letters:
        (record,) = records_between(reader, 0, 1)
        with pytest.raises(AccessDenied, match=rf"see {topic}\.dlq.*grant DESCRIBE on the topic {topic}\.dlq"):
            letters.set_aside(record, DecodeError("bad"))
        grant(guarded, f"{topic}.dlq", ACLOperation.DESCRIBE)
        with pytest.raises(AccessDenied, match=rf"make {topic}\.dlq.*grant CREATE on the topic {topic}\.dlq"):
            letters.set_aside(record, DecodeError("bad"))
        grant(guarded, f"{topic}.dlq", ACLOperation.CREATE, ACLOperation.WRITE, ACLOperation.READ)
        letters.set_aside(record, DecodeError("bad"))
        letters.flush()

    assert log.partitions(f"{topic}.dlq") == (0,)


def test_a_refusal_names_who_was_refused():
    for options, who in (
        ({}, "a client without a user"),
        ({"tls_certificate": "/etc/us.pem"}, "the holder of /etc/us.pem"),
        ({"sasl": "PLAIN", "user": "alice", "password_file": "p"}, "user alice"),
    ):
        connection = KafkaConnection.of("broker", options)
        assert str(refusal(connection, CLUSTER_DENIED, "x", "y")).startswith(f"{who} must be allowed to x")
        assert refusal(connection, 3, "x", "y") is None
