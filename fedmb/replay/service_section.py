"""What a replay service is told: tables with their policies, where it listens, where it stores."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from fedmb.batch.minibatch import Column
from fedmb.replay.ring_layout import STORED_KINDS
from fedmb.replay.service_access import Listening
from fedmb.section import Section

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Schema

_COLUMN = re.compile(r"([a-z]+[0-9]*)(?:\[([0-9]+(?:, *[0-9]+)*)\])?")


class SamplerSection(Section):
    """Which rows are drawn."""

    kind: Literal["uniform", "prioritized", "recency", "without_replacement"] = "uniform"
    """All alike, by priority, new ones more often, or each once in a pass."""
    alpha: float = Field(default=0.6, ge=0)
    """prioritized: how much priorities count; 0 not at all."""
    beta: float = Field(default=0.4, ge=0, le=1)
    """prioritized: how much importance weights undo of that; 1 everything."""
    half_life: float = Field(default=100_000.0, gt=0)
    """recency: rows after which a row is drawn half as often."""


class RemoverSection(Section):
    """Which row goes for a new one."""

    kind: Literal["fifo", "lifo", "lowest_priority", "reservoir", "class_balanced"] = "fifo"
    """The oldest, the newest, the one of lowest priority, any so that all rows ever seen are equally likely to be
    there, or one of the largest class."""
    label: str | None = None
    """class_balanced: column with the class."""


class LimiterSection(Section):
    """How far inserts and samples may run ahead of each other."""

    samples_per_insert: float = Field(default=1.0, gt=0)
    """How many times a row is drawn on average."""
    min_size: int = Field(default=1, ge=1)
    """Rows that the table holds before anything is drawn."""
    error_buffer: float = Field(default=math.inf, gt=0)
    """How far from balance, in drawn rows, before one side waits for the other; inf leaves only min_size."""


class ReaderSection(Section):
    """What a drawn row becomes."""

    kind: Literal["rows", "windows", "n_step"] = "rows"
    """The row as it is, a window of rows that begins there, or the row with a return of several steps."""
    length: int = Field(default=1, ge=1)
    """windows: rows of a window; n_step: steps of a return."""
    burn_in: int = Field(default=0, ge=0)
    """windows: rows before it."""
    discount: float = Field(default=0.99, ge=0, le=1)
    """n_step: factor of each further step."""
    ends: tuple[str, ...] = ("terminated", "truncated")
    """windows: columns of truth values that are true in an episode's last row."""
    num_streams: int = Field(default=1, ge=1)
    """Environments whose rows come in turn."""


class TableSection(Section):
    """One table."""

    columns: dict[str, str] = Field(min_length=1)
    """Columns of a row, as { observation = "float32[17]", reward = "float32", done = "bool" }."""
    capacity: int = Field(ge=1)
    """Rows that it holds."""
    folder: Path | None = None
    """Folder of a table whose rows survive the service, made when there is none; left out, rows are in memory."""
    max_times_sampled: int | None = Field(default=None, ge=1)
    """How often a row may be drawn before it goes; left out, without end."""
    sampler: SamplerSection = SamplerSection()
    remover: RemoverSection = RemoverSection()
    limiter: LimiterSection | None = None
    """How far inserts and samples may run ahead of each other; left out, as far as they like."""
    reader: ReaderSection = ReaderSection()

    @field_validator("columns")
    @classmethod
    def _of_numbers(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, form in columns.items():
            column_of(name, form)
        return columns

    @model_validator(mode="after")
    def _with_label(self) -> TableSection:
        if (self.remover.kind == "class_balanced") != (self.remover.label is not None):
            raise ValueError("label must be given for remover class_balanced, and for no other; name its column")
        return self

    def row_schema(self) -> Schema:
        """Columns of a row."""
        return {name: column_of(name, form) for name, form in self.columns.items()}


class SnapshotSection(Section):
    """When tables are stored, and where."""

    folder: Path | None = None
    """Folder for tables in memory, one below it for each; left out, those are not stored."""
    seconds: float = Field(default=300.0, gt=0)
    """Time between two snapshots of a table; inf stores only at the end."""


class WatchSection(Section):
    """Where the service may be watched."""

    host: str = "127.0.0.1"
    """Address of /metrics, /healthz and /readyz. They show tables and counts, no rows, and are not encrypted."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port of it; 0 is any that is free, which the log names."""


class ReplayServe(Section):
    """Everything that `fedmb replay serve` can be told."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback with TLS and a token only."""
    port: int = Field(default=8400, ge=0, le=65535)
    """Port of it; 0 is any that is free, which the log names."""
    certificate: Path | None = None
    """PEM certificate of the service."""
    key: Path | None = None
    """PEM private key of the service."""
    token_file: Path | None = None
    """File with the token that clients must show, like that of `openssl rand -hex 32`; not for everybody to read."""
    seed: int = Field(default=0, ge=0)
    """Every random draw follows from it."""
    max_message_bytes: int = Field(default=16 << 20, ge=1 << 12, le=1 << 30)
    """Of a request, and of a batch; larger ones are refused."""
    max_streams: int = Field(default=256, ge=1, le=4096)
    """Streams at once; a learner has two or three, an actor one."""
    share_memory: bool = True
    """Let clients of this machine and user draw and insert through shared memory."""
    tables: dict[str, TableSection] = Field(min_length=1)
    """Tables by the names that clients know them by; one named "default" needs no name."""
    snapshots: SnapshotSection = SnapshotSection()
    watching: WatchSection = WatchSection()

    @model_validator(mode="after")
    def _stored_apart(self) -> ReplayServe:
        places = [table.folder.resolve() for table in self.tables.values() if table.folder is not None]
        if len(set(places)) < len(places):
            raise ValueError("tables must have a folder each, two have the same; name another")
        for name in self.tables:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name) or name.startswith("."):
                raise ValueError(f"a table's name must be 1 to 100 letters, digits, _ - and ., got {name!r}; rename it")
        return self

    def listening(self) -> Listening:
        """Where to listen, and who may come.

        Raises:
            SettingsError: beyond loopback without TLS or token, or a file cannot be used.
        """
        return Listening(self.host, self.port, self.certificate, self.key, self.token_file)


def column_of(name: str, form: str) -> Column:
    """A column from text: a dtype's name, and a shape in brackets where there is one.

    Raises:
        ValueError: the text is none.
    """
    match = _COLUMN.fullmatch(form.strip())
    try:
        found = np.dtype(match[1]) if match else None
    except TypeError:
        found = None
    if match is None or found is None or found.name != match[1] or found.kind not in STORED_KINDS:
        raise ValueError(
            f'column {name!r} must be like "float32[84, 84]" or "bool", got {form!r}; name a dtype of NumPy'
        )
    return Column(found.name, tuple(int(one) for one in match[2].split(",")) if match[2] else ())
