"""An error on its way from a replay service to its client: a name and a sentence, and the same class again."""

from __future__ import annotations

from typing import Any

from fedmb import errors

_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.SettingsError,
        errors.DecodeError,
        errors.ShapeError,
        errors.NotEnoughData,
        errors.NotEnoughRoom,
        errors.VersionMismatch,
        errors.AccessDenied,
        errors.Unreachable,
        errors.CorruptSnapshot,
        errors.FedmbError,
        ValueError,
        IndexError,
    )
}
STATUS = {
    "AccessDenied": "UNAUTHENTICATED",
    "VersionMismatch": "FAILED_PRECONDITION",
    "ShapeError": "FAILED_PRECONDITION",
    "SettingsError": "NOT_FOUND",
    "DecodeError": "INVALID_ARGUMENT",
    "Unreachable": "UNAVAILABLE",
}
"""gRPC's word for an error that ends a stream; what is not listed is INTERNAL."""
MOST_CHARACTERS = 2000  # of a message; what a header of gRPC has room for
REFUSALS = (errors.FedmbError, ValueError, IndexError)
"""What a table raises when a request cannot be met; everything else is a fault of ours."""


def refusal(error: Exception) -> dict[str, str]:
    """An error as JSON values."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS or kind is Exception)
    if isinstance(error, errors.RateLimited):
        return {"error": "RateLimited", "message": str(error)[:MOST_CHARACTERS], "side": error.side}
    return {"error": name, "message": str(error)[:MOST_CHARACTERS]}


def raised(content: dict[str, Any]) -> Exception:
    """The error that `refusal` was given; of a class that is not known here, a FedmbError."""
    message = str(content.get("message", "a replay service refused and did not say why"))
    if content.get("error") == "RateLimited":
        return errors.RateLimited(message, side=str(content.get("side", "sample")))
    return _KINDS.get(str(content.get("error")), errors.FedmbError)(message)
