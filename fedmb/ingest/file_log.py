"""A log in a directory: durable, followed by many processes, no broker.

    DIRECTORY/log.json                                       format version and id
    DIRECTORY/TOPIC/PARTITION/00000000000000000000.log       segments, named by their first offset
    DIRECTORY/TOPIC/PARTITION/owner.lock                     held by the writer

Writers and readers need a file system whose `flock` and reads see other processes at once: local disks, not NFS.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError, VersionMismatch
from fedmb.ingest.file_reader import FileLogReader
from fedmb.ingest.file_writer import FileLogWriter, FsyncPolicy
from fedmb.ingest.topic import stream_partition

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FileLog", "FsyncPolicy"]

FORMAT = 1
SEGMENT_BYTES = 64 << 20  # a restarted writer checks one segment: 64 MiB take about 0.1 s
_DESCRIPTION = "log.json"


def _publish(path: Path, log_id: str) -> None:
    """Write the description whole or not at all; the first of several makers wins."""
    draft = path.with_name(f".{_DESCRIPTION}.{uuid.uuid4().hex}")
    try:
        with draft.open("x") as file:
            json.dump({"format": FORMAT, "id": log_id}, file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _read_id(path: Path) -> str:
    try:
        description = json.loads(path.read_bytes())
        version, log_id = description["format"], description["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise VersionMismatch(
            f'a file log is described as {{"format": {FORMAT}, "id": ...}}, but {path} cannot be read so ({error!r}); '
            "restore it, or write it anew with the id that the ledgers name"
        ) from error
    if version != FORMAT or not isinstance(log_id, str):
        raise VersionMismatch(
            f"this fedmb reads file logs of format {FORMAT}, got {version!r} in {path}; use the version that wrote it"
        )
    return log_id


class FileLog:
    """Topics in a directory; holds no file open, and travels to other processes by pickling.

    Args:
        path: the directory.
        id: identity that ledgers name.
        fsync: policy of the writers it opens.
        segment_bytes: size at which their segments roll.
    """

    def __init__(self, path: Path, *, id: str, fsync: FsyncPolicy, segment_bytes: int = SEGMENT_BYTES) -> None:  # noqa: A002  # the protocol's word
        if segment_bytes < 1:
            raise SettingsError(
                f"a segment must have 1 byte or more, got {segment_bytes}; the default is {SEGMENT_BYTES}",
                key="segment_bytes",
            )
        self.path = path
        self.id = id
        self._fsync = fsync
        self._segment_bytes = segment_bytes

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        id: str | None = None,  # noqa: A002  # the protocol's word
        fsync: FsyncPolicy,
        segment_bytes: int = SEGMENT_BYTES,
        create: bool,
    ) -> FileLog:
        """The log in the directory `path`.

        Args:
            path: the directory; partitions in it may come into being later.
            id: identity that ledgers name; a random one is made when a log is created without, and an existing
                log must have this one when it is given.
            fsync: policy of the writers it opens.
            segment_bytes: size at which their segments roll.
            create: make the log when there is none. Processes may do so at the same time, and find the same id.

        Raises:
            SettingsError: there is no log and `create` is False, or its id is another one.
            VersionMismatch: the log has another format.
        """
        directory = Path(path).absolute()
        description = directory / _DESCRIPTION
        if not description.exists():
            if not create:
                raise SettingsError(
                    f"a file log must exist before it is opened without create, got {directory}; start its writer "
                    "first, or pass create=True",
                    key="path",
                )
            if id is not None and not (id and id.isprintable()):
                raise SettingsError(f"a log's id must be printable and not empty, got {id!r}; name the log", key="id")
            directory.mkdir(parents=True, exist_ok=True)
            _publish(description, id if id is not None else str(uuid.uuid4()))
        found = _read_id(description)
        if id is not None and id != found:
            raise SettingsError(
                f"the log in {directory} must have the id {id!r}, got {found!r}; open it without an id, or choose "
                "another directory",
                key="id",
            )
        return cls(directory, id=found, fsync=fsync, segment_bytes=segment_bytes)

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Numbers of the partitions that have a directory, ascending.

        Raises:
            SettingsError: the topic breaks Kafka's rules.
        """
        directory = self._directory(topic, 0).parent
        names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def writer(self, topic: str, partition: int, *, exclusive: bool = True) -> FileLogWriter:
        """The writer of a partition, which is made when it does not exist; it is alone in any case.

        Raises:
            AlreadyOwned: another live writer has it.
            CorruptLog: a damaged record of its last segment is followed by good ones.
            SettingsError: topic or partition break Kafka's rules.
        """
        directory = self._directory(topic, partition)
        name = stream_partition(self.id, topic, partition)
        return FileLogWriter(name, directory, fsync=self._fsync, segment_bytes=self._segment_bytes)

    def reader(self, topic: str, partitions: Sequence[int]) -> FileLogReader:
        """A reader that starts at offset 0 of each partition; partitions may not exist yet.

        Raises:
            SettingsError: there is no partition, or topic or a partition break Kafka's rules.
        """
        if not partitions:
            raise SettingsError("a reader must have 1 partition or more, got none; name one", key="partitions")
        names = {stream_partition(self.id, topic, index): self._directory(topic, index) for index in partitions}
        return FileLogReader(names)

    def _directory(self, topic: str, partition: int) -> Path:
        stream_partition(self.id, topic, partition)
        if topic == _DESCRIPTION:
            raise SettingsError(
                f"a topic of a file log must not be named {_DESCRIPTION}; rename the topic", key="topic"
            )
        return self.path / topic / str(partition)
