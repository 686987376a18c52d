"""URLs that name partitions of a topic of a log.

    file:///absolute/directory?topic=digits&partition=0
    file:relative/directory?topic=digits&partitions=0,1
    memory:name?topic=digits
    kafka://host:9092,host2:9092/digits?partitions=0,1&sasl=PLAIN&user=alice&password_file=/run/secrets/kafka

A partition that is not named is 0; of a kafka: topic, all are meant. Further keys of a kafka: URL are those of
`kafka_connection`. Characters with a meaning of their own (`?`, `#`, `%`, `&`) are written `%3F` and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fedmb.errors import SettingsError
from fedmb.ingest.file_log import SEGMENT_BYTES, FileLog, FsyncPolicy
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_log import KafkaLog
from fedmb.ingest.kafka_options import SETTINGS, read_options, servers_of
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.topic import check_partition, check_topic

if TYPE_CHECKING:
    from fedmb.ingest.log import Log

SCHEMES = ("file", "memory", "kafka")
_KEYS = ("topic", "partition", "partitions")
_EXAMPLE = "file:///var/lib/fedmb/log?topic=digits&partition=0"
_KAFKA_EXAMPLE = "kafka://broker.example:9092/digits?partition=0"
_PLACES = {"file": "directory", "memory": "log", "kafka": "broker"}

_memory_logs: dict[str, MemoryLog] = {}


def _refuse(message: str, scheme: str = "file") -> NoReturn:
    raise SettingsError(f"{message}; write it like {_KAFKA_EXAMPLE if scheme == 'kafka' else _EXAMPLE}", key="url")


def _check_scheme(scheme: str) -> None:
    if scheme in SCHEMES:
        return
    known = ", ".join(f"{name}:" for name in SCHEMES[:-1]) + f" or {SCHEMES[-1]}:"
    near = get_close_matches(scheme, SCHEMES, n=1)
    hint = f", did you mean {near[0]}:?" if near else ""
    _refuse(f"a stream must be {known}, got {f'{scheme}:' if scheme else 'no scheme'}{hint}")


@dataclass(frozen=True, slots=True)
class StreamUrl:
    """The parts of a stream's URL; it holds no secret, and may be shown."""

    scheme: str
    """`file`, `memory` or `kafka`."""
    path: str
    """The directory of a file log, as written; the name of a memory log; the brokers of a Kafka cluster, host:port
    with commas between."""
    topic: str
    partitions: tuple[int, ...] = (0,)
    """Ascending, none twice; none means all that a Kafka topic has."""
    options: tuple[tuple[str, str], ...] = ()
    """Further keys and their values, of kafka: alone."""

    def __post_init__(self) -> None:
        _check_scheme(self.scheme)
        if not self.path:
            _refuse(f"a {self.scheme}: stream must name a {_PLACES[self.scheme]}, got none", self.scheme)
        check_topic(self.topic)
        for partition in self.partitions:
            check_partition(partition)
        if list(self.partitions) != sorted(set(self.partitions)) or not (self.partitions or self.scheme == "kafka"):
            _refuse(f"partitions must ascend, none twice, got {self.partitions}", self.scheme)
        if self.scheme == "kafka":
            if SETTINGS in dict(self.options):  # the file's keys count too, and it may lie on another machine
                read_options({key: value for key, value in self.options if key != SETTINGS})
            else:
                self.connection()
        elif self.options:
            _refuse(f"a {self.scheme}: stream has no option, got {self.options[0][0]!r}")

    def __str__(self) -> str:
        numbers = ",".join(map(str, self.partitions))
        key = "partition" if len(self.partitions) == 1 else "partitions"
        if self.scheme == "kafka":
            pairs = [(key, numbers)] if self.partitions else []
            query = "&".join(f"{key}={quote(value, safe='/:,')}" for key, value in [*pairs, *self.options])
            return f"kafka://{self.path}/{quote(self.topic)}" + (f"?{query}" if query else "")
        slashes = "//" if self.path.startswith("/") else ""
        return f"{self.scheme}:{slashes}{quote(self.path)}?topic={quote(self.topic)}&{key}={numbers}"

    @classmethod
    def parse(cls, text: str) -> StreamUrl:
        """Read a URL.

        Raises:
            SettingsError: its scheme is unknown, a part is missing, an unknown one is there, or one holds a secret.
        """
        scheme = text.partition(":")[0].lower()
        shown = "a kafka: one that cannot be read" if scheme == "kafka" else repr(text)  # it may hold a password
        try:
            parts = urlsplit(text)
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            _refuse(f"a stream must be a URL, got {shown}{'' if scheme == 'kafka' else f' ({error})'}", scheme)
        _check_scheme(parts.scheme)
        if parts.fragment:
            _refuse("a stream must have no fragment, got a #; write it %23", scheme)
        query = dict(pairs)
        if len(query) < len(pairs) or query.keys() >= {"partition", "partitions"}:
            _refuse(f"each part of a stream must be given once, got {', '.join(key for key, _ in pairs)}", scheme)
        if scheme == "kafka":
            return _kafka_url(parts.netloc, unquote(parts.path), query)
        if parts.netloc not in {"", "localhost"}:
            _refuse(
                f"a stream on this machine must have no host, got {parts.netloc!r} in {text!r}; three slashes, or none"
            )
        for key in query.keys() - set(_KEYS):
            near = get_close_matches(key, _KEYS, n=1)
            _refuse(
                f"parts of a stream are {', '.join(_KEYS)}, got {key!r}{f', did you mean {near[0]}?' if near else ''}"
            )
        if "topic" not in query:
            _refuse(f"a stream must name its topic, got {text!r}")
        return cls(parts.scheme, unquote(parts.path), query["topic"], _numbers(query, "0", scheme))

    def connection(self) -> KafkaConnection:
        """How to reach the cluster of a kafka: stream; reads the settings file that the URL names.

        Raises:
            SettingsError: a key breaks a rule.
        """
        return KafkaConnection.of(self.path, dict(self.options))


def _kafka_url(servers: str, path: str, query: dict[str, str]) -> StreamUrl:
    servers_of(servers)  # before anything is quoted: a password may stand in front of the host
    topic = path.removeprefix("/")
    if not topic:
        _refuse(f"a stream must name its topic behind the host, got {servers!r} alone", "kafka")
    if "topic" in query:
        _refuse(f"the topic of a kafka: stream stands behind its host, got topic={query['topic']!r} too", "kafka")
    partitions = _numbers(query, "", "kafka") if query.keys() & set(_KEYS) else ()
    options = tuple((key, value) for key, value in query.items() if key not in _KEYS)
    return StreamUrl("kafka", servers, topic, partitions, options)


def _numbers(query: dict[str, str], default: str, scheme: str) -> tuple[int, ...]:
    numbers = query.get("partition", query.get("partitions", default)).split(",")
    if not all(number.isascii() and number.isdecimal() for number in numbers):
        _refuse(f"partitions must be whole numbers with commas between, got {','.join(numbers)!r}", scheme)
    return tuple(sorted(map(int, numbers)))


def open_log(
    url: str | StreamUrl,
    *,
    fsync: FsyncPolicy = FsyncPolicy(1.0),  # noqa: B008  # frozen
    segment_bytes: int = SEGMENT_BYTES,
    create: bool = True,
) -> Log:
    """The log that a stream's URL names.

    A memory log is one and the same for every URL of its name in this process, and its name is its id. A kafka: log is
    a cluster that answers; what writers make in it, and how, is in the URL.

    Args:
        url: the stream, or its text.
        fsync: policy of the writers a file log opens; once a second by default.
        segment_bytes: size at which their segments roll.
        create: make a file log when there is none.

    Raises:
        SettingsError: the URL breaks a rule, or there is no log and `create` is False.
        VersionMismatch: the log has another format.
        Unreachable: no broker answers.
        AccessDenied: the brokers refuse who we are, or we them.
    """
    stream = StreamUrl.parse(url) if isinstance(url, str) else url
    if stream.scheme == "kafka":
        return KafkaLog.open(stream.connection())
    if stream.scheme == "memory":
        return _memory_logs.setdefault(stream.path, MemoryLog(stream.path))
    return FileLog.open(stream.path, fsync=fsync, segment_bytes=segment_bytes, create=create)


def partitions_of(log: Log, url: StreamUrl, *, absent: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The partitions that a URL names; all that its topic has where it names none.

    Args:
        log: the URL's.
        url: what is to be read or written.
        absent: the answer while the topic does not exist.

    Raises:
        SettingsError: it names none, and the topic does not exist and `absent` is empty.
        Unreachable: the log does not answer.
        AccessDenied: we may not see the topic.
    """
    if url.partitions:
        return url.partitions
    partitions = log.partitions(url.topic) or absent
    if not partitions:
        raise SettingsError(
            f"a topic must exist before all its partitions can be read, got {url.topic!r}, which the brokers do not "
            "have; start its producer first, or name the partitions",
            key="url",
        )
    return partitions
