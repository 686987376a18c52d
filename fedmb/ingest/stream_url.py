"""URLs that name partitions of a topic of a log.

    file:///absolute/directory?topic=digits&partition=0
    file:relative/directory?topic=digits&partitions=0,1
    memory:name?topic=digits

A partition that is not named is 0. Characters with a meaning of their own (`?`, `#`, `%`, `&`) are written `%3F` and
so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fedmb.errors import SettingsError
from fedmb.ingest.file_log import SEGMENT_BYTES, FileLog, FsyncPolicy
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.topic import check_partition, check_topic

if TYPE_CHECKING:
    from fedmb.ingest.log import Log

SCHEMES = ("file", "memory")
_KEYS = ("topic", "partition", "partitions")
_EXAMPLE = "file:///var/lib/fedmb/log?topic=digits&partition=0"

_memory_logs: dict[str, MemoryLog] = {}


def _refuse(message: str) -> NoReturn:
    raise SettingsError(f"{message}; write it like {_EXAMPLE}", key="url")


def _check_scheme(scheme: str) -> None:
    if scheme in SCHEMES:
        return
    known = " or ".join(f"{name}:" for name in SCHEMES)
    if scheme == "kafka":
        _refuse(f"a stream must be {known}, got kafka:; this version reads no Kafka broker")
    near = get_close_matches(scheme, SCHEMES, n=1)
    hint = f", did you mean {near[0]}:?" if near else ""
    _refuse(f"a stream must be {known}, got {f'{scheme}:' if scheme else 'no scheme'}{hint}")


@dataclass(frozen=True, slots=True)
class StreamUrl:
    """The parts of a stream's URL."""

    scheme: str
    """`file` or `memory`."""
    path: str
    """The directory of a file log, as written; the name of a memory log."""
    topic: str
    partitions: tuple[int, ...] = (0,)
    """Ascending, none twice."""

    def __post_init__(self) -> None:
        _check_scheme(self.scheme)
        if not self.path:
            _refuse(f"a {self.scheme}: stream must name a {'directory' if self.scheme == 'file' else 'log'}, got none")
        check_topic(self.topic)
        for partition in self.partitions:
            check_partition(partition)
        if not self.partitions or list(self.partitions) != sorted(set(self.partitions)):
            _refuse(f"partitions must ascend, none twice, got {self.partitions}")

    def __str__(self) -> str:
        slashes = "//" if self.path.startswith("/") else ""
        numbers = ",".join(map(str, self.partitions))
        key = "partition" if len(self.partitions) == 1 else "partitions"
        return f"{self.scheme}:{slashes}{quote(self.path)}?topic={quote(self.topic)}&{key}={numbers}"

    @classmethod
    def parse(cls, text: str) -> StreamUrl:
        """Read a URL.

        Raises:
            SettingsError: its scheme is unknown, a part is missing or an unknown one is there.
        """
        try:
            parts = urlsplit(text)
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            _refuse(f"a stream must be a URL, got {text!r} ({error})")
        _check_scheme(parts.scheme)
        if parts.netloc not in {"", "localhost"}:
            _refuse(
                f"a stream on this machine must have no host, got {parts.netloc!r} in {text!r}; three slashes, or none"
            )
        if parts.fragment:
            _refuse(f"a stream must have no fragment, got #{parts.fragment}")
        query = dict(pairs)
        if len(query) < len(pairs) or query.keys() >= {"partition", "partitions"}:
            _refuse(f"each part of a stream must be given once, got {parts.query!r}")
        for key in query.keys() - set(_KEYS):
            near = get_close_matches(key, _KEYS, n=1)
            _refuse(
                f"parts of a stream are {', '.join(_KEYS)}, got {key!r}{f', did you mean {near[0]}?' if near else ''}"
            )
        if "topic" not in query:
            _refuse(f"a stream must name its topic, got {text!r}")
        numbers = query.get("partition", query.get("partitions", "0")).split(",")
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            _refuse(f"partitions must be whole numbers with commas between, got {','.join(numbers)!r}")
        partitions = tuple(sorted(map(int, numbers)))
        return cls(parts.scheme, unquote(parts.path), query["topic"], partitions)


def open_log(
    url: str | StreamUrl,
    *,
    fsync: FsyncPolicy = FsyncPolicy(1.0),  # noqa: B008  # frozen
    segment_bytes: int = SEGMENT_BYTES,
    create: bool = True,
) -> Log:
    """The log that a stream's URL names.

    A memory log is one and the same for every URL of its name in this process, and its name is its id.

    Args:
        url: the stream, or its text.
        fsync: policy of the writers a file log opens; once a second by default.
        segment_bytes: size at which their segments roll.
        create: make a file log when there is none.

    Raises:
        SettingsError: the URL breaks a rule, or there is no log and `create` is False.
        VersionMismatch: the log has another format.
    """
    stream = StreamUrl.parse(url) if isinstance(url, str) else url
    if stream.scheme == "memory":
        return _memory_logs.setdefault(stream.path, MemoryLog(stream.path))
    return FileLog.open(stream.path, fsync=fsync, segment_bytes=segment_bytes, create=create)
