"""The errors fedmb raises.

    FedmbError
     ├─ SettingsError     a setting breaks a rule; raised at construction, never at round 40
     ├─ DecodeError       bytes of a record are not what its codec promises
     ├─ ShapeError        columns or arrays differ from the schema they must follow
     ├─ NotEnoughData     a source or buffer holds fewer rows than were asked for
     ├─ NotEnoughRoom     a ring was given more rows than it has room for
     ├─ StaleUpdate       an update does not start where the model's ledger stands
     ├─ VersionMismatch   two processes, or a file and its reader, speak different versions
     ├─ CorruptLog        a log segment holds bytes that its checksum refutes
     ├─ CorruptRing       a replay ring's file cannot be trusted
     ├─ CorruptCheckpoint a checkpoint's bytes differ from its digest
     ├─ CorruptSnapshot   a replay table's snapshot cannot be trusted
     ├─ RateLimited       a replay table's limiter let an insert or a sample wait past its deadline
     ├─ RecordsGone       records that a ledger still needs are no longer in the log
     ├─ TooManyRejected   more records were set aside than a stream in order would have
     ├─ Unreachable       a broker, registry or server does not answer; trying again may help
     ├─ AccessDenied      a broker, registry or server refuses who we are
     ├─ PrivacyExhausted  a client's privacy budget allows no further release
     ├─ Diverged          a model's parameters or loss are no longer finite
     └─ AlreadyOwned      another live process owns this log partition, ring or run directory

Every message states the rule, the value that broke it and the way out.
"""

from __future__ import annotations

import errno

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""`errno` of an OSError by which a disk refuses what must be stored; such errors are left as they are."""


class FedmbError(Exception):
    """Root of every error that fedmb raises on purpose."""


class SettingsError(FedmbError, ValueError):
    """A setting breaks a rule.

    Args:
        message: rule, value and way out.
        key: dotted name of the setting, where there is one.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class DecodeError(FedmbError, ValueError):
    """Bytes of a record are not what its codec promises; the record is set aside, never guessed."""


class ShapeError(FedmbError, ValueError):
    """Columns or arrays differ from the schema they must follow."""


class NotEnoughData(FedmbError):  # noqa: N818  # the condition's name is the error's name, here and below
    """A source or buffer holds fewer rows than were asked for."""


class NotEnoughRoom(FedmbError):  # noqa: N818
    """A ring was given more rows than it has room for; whoever writes asks first and waits."""


class StaleUpdate(FedmbError):  # noqa: N818
    """An update does not start where the model's ledger stands; it must be dropped."""


class VersionMismatch(FedmbError):  # noqa: N818
    """Two processes, or a file and its reader, speak different versions."""


class CorruptLog(FedmbError):  # noqa: N818
    """A log segment holds bytes that its checksum refutes.

    Args:
        message: what was found and where.
        topic: topic of the damaged partition.
        partition: its index.
        offset: offset of the first record that cannot be trusted.
    """

    def __init__(self, message: str, *, topic: str, partition: int, offset: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset


class CorruptRing(FedmbError):  # noqa: N818
    """A replay ring's file cannot be trusted."""


class CorruptCheckpoint(FedmbError):  # noqa: N818
    """A checkpoint's bytes differ from its digest."""


class CorruptSnapshot(FedmbError):  # noqa: N818
    """A replay table's snapshot cannot be trusted: its bytes differ from their checksum, or are no snapshot."""


class RateLimited(FedmbError):  # noqa: N818
    """A replay table's limiter let an insert or a sample wait past its deadline; trying again later may help.

    Args:
        message: what was waited for, how far it came and what to change.
        side: "insert" or "sample".
    """

    def __init__(self, message: str, *, side: str) -> None:
        super().__init__(message)
        self.side = side


class RecordsGone(FedmbError):  # noqa: N818
    """Records that a ledger still needs are no longer in the log: retention passed it, or the topic was made anew.

    Args:
        message: what is missing and where.
        topic: topic of the partition.
        partition: its index.
        offset: offset of the first record that is missing.
    """

    def __init__(self, message: str, *, topic: str, partition: int, offset: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset


class TooManyRejected(FedmbError):  # noqa: N818
    """More records of a stream were set aside than a stream in order would have; somebody must look."""


class Unreachable(FedmbError):  # noqa: N818
    """A broker, registry or server does not answer, or not in a way that is understood; trying again may help."""


class AccessDenied(FedmbError):  # noqa: N818
    """Somebody refuses who we are, or we refuse who it is: password, key, certificate, clock or permission."""


class PrivacyExhausted(FedmbError):  # noqa: N818
    """A client's privacy budget allows no further release; it takes no part in rounds any more."""


class Diverged(FedmbError):  # noqa: N818
    """A model's parameters or loss are no longer finite; such an update never leaves its client."""


class AlreadyOwned(FedmbError):  # noqa: N818
    """Another live process owns this log partition, ring or run directory."""
