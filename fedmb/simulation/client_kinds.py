"""The settings of a simulation's clients: how many of which kind, and what they learn from."""

from __future__ import annotations

from pydantic import Field

from fedmb.section import Section


class Private(Section):
    """Clients whose rows lie in a private table."""

    clients: int = Field(default=2, ge=0)
    """How many there are."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Part of the training rows that lie in private tables; the others feed the streams."""
    tables: int = Field(default=1, ge=1)
    """Tables, each with labels of its own, that a client mixes in every batch; see rows.temperature."""
    dataset: str | None = None
    """Rows to deal out among them, each fetched when it is drawn, in place of the task's and of `share`: like
    dataset:module:Class?name=value. The task's rows then all feed the streams."""
    alpha: float = Field(default=0.5, gt=0)
    """Dirichlet concentration of the label skew between tables; small is skewed, large is even."""


class Streamed(Section):
    """Clients that learn from a stream whose label mix changes half-way."""

    clients: int = Field(default=2, ge=0)
    """How many there are."""
    rows_per_second: float = Field(default=1600.0, gt=0)
    """Pace of each stream's feeder; inf is as fast as it goes."""
    rows_per_record: int = Field(default=8, ge=1)
    """Rows that the feeder packs into one record."""
    labels_before: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    """Labels in the stream until the drift."""
    labels_after: tuple[int, ...] = Field(default=(5, 6, 7, 8, 9), min_length=1)
    """Labels in the stream after it."""
    drift_at: float = Field(default=0.5, ge=0, le=1)
    """When the label mix changes, as a part of the rows that the run will use; of 30 rounds where no round is last."""
    drift_record: int | None = Field(default=None, ge=1)
    """Record with which the label mix changes, in place of drift_at."""
    lead_rows: int = Field(default=8192, ge=1)
    """Rows that a feeder runs ahead of its client at most, so that a slow machine does not fill its disk."""


class Slow(Section):
    """Clients that are slow, to see what `rounds.late` makes of them; a killed run forgets what is under way."""

    clients: int = Field(default=0, ge=0)
    """How many of all, counted from the last one."""
    rounds: int = Field(default=1, ge=1)
    """Rounds that their replies come after their own."""
