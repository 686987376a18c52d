"""Which parts of a table go together; refused when the table is made, not when the first row is drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from fedmb.replay.limiter import RateLimiter

METHODS = {"sampler": "draw", "remover": "place", "reader": "read", "limiter": "serve"}
"""By which a part is told from the name of one, and from its class."""


def check_parts(**parts: Any) -> None:
    """Refuse what is no part of a table, such as the name of one: `sampler="uniform"`.

    Raises:
        SettingsError: a part is none.
    """
    for name, part in parts.items():
        if part is not None and (isinstance(part, type) or not hasattr(part, METHODS[name])):
            raise SettingsError(
                f"a {name} must be an object that has {METHODS[name]}(), got {part!r}; make one", key=name
            )


def check_together(capacity: int, limiter: RateLimiter | None, max_times_sampled: int | None, seed: int) -> None:
    """Refuse a table that would wait for ever, or that nobody can repeat.

    Raises:
        SettingsError: the limiter waits for more rows than there is room for, or for more draws of a row than it may
            have; or the seed is negative.
    """
    if seed < 0:
        raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
    if limiter is None:
        return
    if limiter.min_size > capacity:
        raise SettingsError(
            f"a limiter's min_size must be at most the capacity of {capacity} rows, got {limiter.min_size}: nothing "
            "could ever be drawn; lower it or raise the capacity",
            key="min_size",
        )
    if max_times_sampled is None or limiter.max_difference == math.inf:
        return
    if limiter.samples_per_insert > max_times_sampled:
        raise SettingsError(
            f"samples_per_insert must be at most max_times_sampled = {max_times_sampled}, got "
            f"{limiter.samples_per_insert:g}: rows would be gone before they were drawn so often, and inserts would "
            "wait for ever; raise max_times_sampled",
            key="samples_per_insert",
        )
