"""Fields of received records, by the type that they must have, and one error for whatever else is found."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedmb import __version__
from fedmb.errors import FedmbError, ShapeError, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.app import ConfigRecord, MetricRecord


@contextmanager
def refusing(what: str, records: tuple[str, ...]) -> Iterator[None]:
    """Turn whatever a malformed message makes Python raise into one ShapeError."""
    try:
        yield
    except FedmbError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        got = repr(error)[:500]
        raise ShapeError(f"{what} must carry the records {records} in fedmb's form, got: {got}") from error


def check_version(version: str) -> None:
    """Demand this fedmb.

    Raises:
        VersionMismatch: the other side runs another.
    """
    if version != __version__:
        raise VersionMismatch(
            f"server and client must run one fedmb, got {version} there and {__version__} here; "
            "install the server's version on the client"
        )


def text_in(record: ConfigRecord, key: str) -> str:
    """A text; KeyError or TypeError where there is none."""
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} must be text, got {type(value).__name__}")
    return value


def whole_in(record: ConfigRecord, key: str) -> int:
    """A whole number; KeyError or TypeError where there is none."""
    value = record[key]
    if type(value) is not int:
        raise TypeError(f"{key} must be a whole number, got {type(value).__name__}")
    return value


def number_in(record: MetricRecord, key: str) -> float:
    """A number; KeyError or TypeError where there is none."""
    value = record[key]
    if not isinstance(value, int | float):
        raise TypeError(f"{key} must be a number, got {type(value).__name__}")
    return float(value)
