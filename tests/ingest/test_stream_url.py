import pickle
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.kafka_log import KafkaLog
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of

PATHS = st.text("ab/. ?#%&=+:;@ü\U0001f600", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:///abs/dir?topic=digits&partition=0", StreamUrl("file", "/abs/dir", "digits", (0,))),
        ("file:/abs/dir?topic=digits", StreamUrl("file", "/abs/dir", "digits", (0,))),
        ("file://localhost/abs?topic=digits", StreamUrl("file", "/abs", "digits", (0,))),
        ("file:relative/dir?topic=digits&partitions=1,0", StreamUrl("file", "relative/dir", "digits", (0, 1))),
        ("file:with%20space%3F?topic=a.b_c-d&partition=12", StreamUrl("file", "with space?", "a.b_c-d", (12,))),
        ("FILE:x?topic=digits", StreamUrl("file", "x", "digits", (0,))),
        ("memory:name?topic=digits", StreamUrl("memory", "name", "digits", (0,))),
        ("kafka://a:9092/digits", StreamUrl("kafka", "a:9092", "digits", ())),
        ("KAFKA://a,b.c:9093/x-y?partitions=2,0", StreamUrl("kafka", "a,b.c:9093", "x-y", (0, 2))),
        ("kafka://[::1]:9092/x?partition=1", StreamUrl("kafka", "[::1]:9092", "x", (1,))),
        (
            "kafka://a/x?driver=confluent&tls_ca=/etc/ca.pem",
            StreamUrl("kafka", "a", "x", (), (("driver", "confluent"), ("tls_ca", "/etc/ca.pem"))),
        ),
    ],
)
def test_parts_are_read(text, expected):
    assert StreamUrl.parse(text) == expected


@given(
    st.from_regex(r"[a-z0-9.-]{1,20}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True),
    st.sets(st.integers(0, 99), max_size=5).map(lambda numbers: tuple(sorted(numbers))),
    st.dictionaries(st.sampled_from(["group", "tls_ca", "settings"]), PATHS),
)
def test_a_kafka_url_reads_back_what_it_shows(server, topic, partitions, options):
    url = StreamUrl("kafka", f"{server},b:1", topic, partitions, tuple(options.items()))

    assert StreamUrl.parse(str(url)) == url


@given(
    st.sampled_from(["file", "memory"]),
    PATHS.filter(lambda path: not path.startswith("//")),
    st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True),
    st.sets(st.integers(0, 99), min_size=1, max_size=5).map(lambda numbers: tuple(sorted(numbers))),
)
def test_a_url_reads_back_what_it_shows(scheme, path, topic, partitions):
    url = StreamUrl(scheme, path, topic, partitions)

    assert StreamUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafak://broker:9092/digits", "did you mean kafka:"),
        ("kafka:///digits", "broker"),
        ("kafka://broker:9092", "must name its topic behind the host"),
        ("kafka://broker:9092/", "must name its topic behind the host"),
        ("kafka://broker:9092/a/b", "topic's name"),
        ("kafka://broker:9092/x?topic=y", "got topic='y' too"),
        ("kafka://broker:x/digits", "host:port"),
        ("kafka://broker:99999/digits", "host:port"),
        ("kafka://broker/digits?fetchbytes=1", "did you mean fetch_bytes?"),
        ("kafka://broker/digits?partion=1", "has no 'partion'"),
        ("kafka://broker/digits?partition=", "whole numbers"),
        ("kafka://broker/digits?user=alice", "got no sasl"),
        ("kafka://broker/digits?settings=/etc/x.toml&on_gap=wait", "on_gap must be one of stop, skip"),
        ("kafka://broker/digits#x", "no fragment"),
        ("flie:dir?topic=digits", "did you mean file:"),
        ("memroy:x?topic=digits", "did you mean memory:"),
        ("http://host/x?topic=digits", "got http:"),
        ("dir?topic=digits", "got no scheme"),
        ("", "got no scheme"),
        ("file:dir", "must name its topic"),
        ("file:?topic=digits", "must name a directory"),
        ("memory:?topic=digits", "must name a log"),
        ("file://host/dir?topic=digits", "no host, got 'host'"),
        ("file:dir?topic=digits#x", "no fragment"),
        ("file:dir?topic=a%2Fb", "topic's name"),
        ("file:dir?topic=", "topic's name"),
        ("file:dir?topic=digits&partition=-1", "whole numbers"),
        ("file:dir?topic=digits&partition=", "whole numbers"),
        ("file:dir?topic=digits&partitions=0,,1", "whole numbers"),
        ("file:dir?topic=digits&partitions=1,1", "none twice"),
        ("file:dir?topic=digits&partition=0&partition=1", "given once"),
        ("file:dir?topic=digits&partition=0&partitions=1", "given once"),
        ("file:dir?topic=digits&partion=0", "did you mean partition"),
        ("file:dir?topic", "URL"),
        ("file://[x/dir?topic=digits", "URL"),
    ],
)
def test_an_error_says_what_is_wrong_and_how_to_write_it(text, said):
    with pytest.raises(SettingsError) as caught:
        StreamUrl.parse(text)
    assert said in str(caught.value)


def test_a_file_log_is_opened_and_made(tmp_path):
    log = open_log(f"file://{tmp_path}/log?topic=digits")

    assert isinstance(log, FileLog)
    assert log.id == FileLog.open(tmp_path / "log", fsync=FsyncPolicy.never(), create=False).id
    with pytest.raises(SettingsError, match="create"):
        open_log(f"file://{tmp_path}/other?topic=digits", create=False)


def test_a_memory_log_is_one_for_its_name():
    one = open_log("memory:shared?topic=digits")

    assert open_log(StreamUrl("memory", "shared", "others")) is one
    assert open_log("memory:another?topic=digits") is not one
    assert one.id == "shared"


SECRETS = [
    "kafka://alice:hunter2@broker:9092/digits",
    "kafka://alice:hunter2@broker",
    "kafka://alice:hunter2@[x/digits",
    "kafka://broker/digits?user=alice&sasl=PLAIN&password=hunter2",
    "kafka://broker/digits?sasl_password=hunter2",
    "kafka://broker/digits?sasl.password=hunter2",
    "kafka://broker/digits?tls_key_password=hunter2&tls_key=x",
    "kafka://broker/digits?password=hunter2&password=hunter2",
    "kafka://broker/digits?settings=x&password=hunter2",
    "kafka://broker/?password=hunter2",
    "kafka://broker/digits?hunter2",
    "kafka://broker/digits?password=hunter2#x",
    "kafka://broker/digits?api_token=hunter2",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_refused_and_not_repeated(text):
    with pytest.raises(SettingsError) as caught:
        StreamUrl.parse(text)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", [SECRETS[0], *SECRETS[3:7], SECRETS[8]])
def test_a_secret_is_refused_with_the_way_out(text):
    with pytest.raises(SettingsError, match=r"password_file=PATH"):
        StreamUrl.parse(text)


def test_an_option_belongs_to_kafka():
    with pytest.raises(SettingsError, match="a file: stream has no option, got 'group'"):
        StreamUrl("file", "x", "digits", (0,), (("group", "g"),))


def test_a_kafka_log_is_the_cluster_and_travels(kafka):
    log = open_log(f"kafka://{kafka.address}/digits?group=g")

    assert isinstance(log, KafkaLog)
    assert log.id == open_log(f"kafka://{kafka.address}/others?driver=confluent").id
    again = pickle.loads(pickle.dumps(log))  # noqa: S301  # our own bytes
    assert (again.id, again.connection) == (log.id, log.connection)


def test_no_partition_named_is_all_that_a_kafka_topic_has(kafka, topic):
    url = StreamUrl.parse(f"kafka://{kafka.address}/{topic}?create_partitions=3")
    log = open_log(url)

    with pytest.raises(SettingsError, match="start its producer first"):
        partitions_of(log, url)
    assert partitions_of(log, url, absent=(0,)) == (0,)
    with closing(log.writer(topic, 1)):
        assert partitions_of(log, url) == (0, 1, 2)
    assert partitions_of(log, StreamUrl.parse(f"kafka://{kafka.address}/{topic}?partition=7")) == (7,)


def test_no_partition_named_is_the_first_of_a_file_or_memory_log():
    assert partitions_of(MemoryLog(), StreamUrl.parse("memory:x?topic=digits")) == (0,)
