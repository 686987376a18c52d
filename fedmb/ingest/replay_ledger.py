"""Which records were replayed into a topic, written down so that a killed replay goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from typing import TYPE_CHECKING

from fedmb.errors import AlreadyOwned, VersionMismatch
from fedmb.ingest.log import records_between
from fedmb.ingest.rejected_offsets import RejectedOffsets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmb.ingest.log import LogReader

REPLAYED_HEADER = "fmb-replayed-from"
"""Header of a replayed record: `log/topic[partition]@offset` of the one that was set aside."""
FORMAT = 1


class ReplayLedger:
    """Records that were replayed, and how far each target was searched for more.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._replayed = RejectedOffsets(sys.maxsize)
        self._searched: dict[str, int] = {}

    @classmethod
    @contextlib.contextmanager
    def owned(cls, path: Path, *, read_only: bool = False) -> Iterator[ReplayLedger]:
        """The ledger of a file that may not exist yet; nobody else has it while the body runs.

        Args:
            path: the file.
            read_only: read it, and write nothing.

        Raises:
            AlreadyOwned: another replay has it.
            VersionMismatch: the file is no ledger of ours.
        """
        ledger = cls(None if read_only else path)
        if read_only:
            ledger._load(path)
            yield ledger
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyOwned(
                    f"letters are replayed by one process at a time, but another one has {path}; wait for it or stop it"
                ) from error
            ledger._load(path)
            yield ledger

    def holds(self, partition: str, offset: int) -> bool:
        """True when the record was replayed."""
        return self._replayed.holds(partition, offset)

    def add(self, partition: str, offset: int) -> None:
        """The record was replayed."""
        self._replayed.add(partition, offset)

    def search(self, target: LogReader) -> None:
        """Find records that were replayed into the reader's one partition since the last save."""
        (partition,) = target.partitions
        begin, end = target.begin_offsets()[partition], target.end_offsets()[partition]
        for record in records_between(target, max(begin, self._searched.get(str(partition), 0)), end):
            if header := record.headers.get(REPLAYED_HEADER):
                name, _, offset = header.decode(errors="replace").rpartition("@")
                if name and offset.isascii() and offset.isdecimal():
                    self.add(name, int(offset))
        self._searched[str(partition)] = end

    def save(self, target: LogReader) -> None:
        """Write the ledger down; everything appended to the reader's one partition must be durable."""
        (partition,) = target.partitions
        self._searched[str(partition)] = target.end_offsets()[partition]
        if self._path is None:
            return
        draft = self._path.with_name(f".{self._path.name}.draft")
        with draft.open("w") as file:
            json.dump({"format": FORMAT, "replayed": self._replayed.ranges(), "searched": self._searched}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    def _load(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")  # noqa: TRY301  # told like the others
            for partition, runs in content["replayed"].items():
                for first, last in runs:
                    for offset in range(first, last + 1):
                        self.add(partition, offset)
            self._searched = {str(name): int(offset) for name, offset in content["searched"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VersionMismatch(
                f'a ledger of replayed letters is {{"format": {FORMAT}, ...}}, but {path} cannot be read so '
                f"({error!r}); move it away: the target is then searched as a whole"
            ) from error
