"""Settings of the rows arrow: how a private table is cut into batches and how far ahead they are made."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from fedmb.batch.buckets import Bucketing
from fedmb.batch.curriculum import Curriculum, root_pace
from fedmb.batch.dataset import MapDataset, dataset_source, following
from fedmb.batch.mixture import Mixture
from fedmb.batch.node_table import GraphRows
from fedmb.batch.poisson import PoissonSource
from fedmb.batch.prefetch import Prefetch
from fedmb.batch.table import TableSource, Tail
from fedmb.errors import SettingsError
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.batch.source import BatchSource

_MIXED = 2  # tables at least, where any are mixed
_NEED_A_TABLE = {"stream": ("buckets", "graph"), "dataset": ("buckets", "graph", "curriculum_samples", "mapped")}


class Rows(Section):
    """How rows become mini-batches."""

    tail: Tail = "balance"
    """Rows left over at the end of an epoch: level batches (balance), a short one (keep), or none of them (drop)."""
    sampling: Literal["shuffled", "poisson"] = "shuffled"
    """Which rows of a table meet: epochs in a new order each, or each row by a chance of its own in every batch
    (poisson), which private steps count for less."""
    prefetch: int = Field(default=0, ge=0)
    """Batches made ahead in a thread, 0 for none. It changes no row; it pays where rows are decoded or fetched."""
    mapped: bool = False
    """Leave a table file on disk and read rows as they are drawn."""

    curriculum_samples: int | None = Field(default=None, ge=1)
    """Rows over which a table is opened up from its easy rows to all of them; left out, all from the start. The task
    scores its rows with `difficulty`."""
    curriculum_start: float = Field(default=0.25, gt=0, le=1)
    """curriculum_samples: part of the rows, the easiest, that are drawn at first."""

    temperature: float = Field(default=1.0, gt=0)
    """Mix of a client's several tables in each batch: 1 in proportion to their rows, inf the same of each."""

    buckets: Bucketing | None = None
    """Rows of similar length together, for a table with a padded column."""
    graph: GraphRows | None = None
    """Nodes with their neighbours, for a table of nodes."""

    @model_validator(mode="after")
    def _consistent(self) -> Rows:
        chosen = [name for name in ("buckets", "graph", "curriculum_samples") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"one technique decides which rows meet in a batch, got {' and '.join(chosen)}; keep one")
        if self.curriculum_samples is None and self.curriculum_start != _default("curriculum_start"):
            raise ValueError(
                f"curriculum_start is read by a curriculum, got {self.curriculum_start} and no curriculum_samples; set "
                "curriculum_samples, or remove curriculum_start"
            )
        if self.mapped and (self.buckets or self.graph):
            raise ValueError(f"rows.{chosen[0]} reads its table into memory, got mapped = true; leave mapped out")
        if self.buckets and self.tail != "balance":
            raise ValueError(f"buckets level their batches, got tail {self.tail!r}; leave tail at balance")
        others = {name: getattr(self, name) for name in ("prefetch", "mapped") if getattr(self, name)}
        others |= dict.fromkeys(chosen, "set") | ({"tail": self.tail} if self.tail != _default("tail") else {})
        if self.sampling == "poisson" and others:
            raise ValueError(
                f"rows drawn each by a chance of its own are of a table in memory, have no epochs and are not made "
                f"ahead, got sampling poisson and {', '.join(f'{name} {told}' for name, told in others.items())}; "
                "leave that out, or sampling"
            )
        if self.graph and self.graph.sampler == "pyg" and self.prefetch:
            raise ValueError(
                f"PyG draws from torch's one generator, which no thread may share, got prefetch {self.prefetch}; set "
                "prefetch to 0 or graph.sampler to numpy"
            )
        return self

    def check_against(self, kind: Literal["stream", "dataset"]) -> None:
        """Demand that nothing is asked of a stream or dataset that only a table can give.

        Raises:
            SettingsError: something is.
        """
        wrong = [f"rows.{name}" for name in _NEED_A_TABLE[kind] if getattr(self, name)]
        if wrong := [*wrong, *(["rows.sampling"] if self.sampling == "poisson" else [])]:
            raise SettingsError(
                f"{wrong[0]} needs its rows in a table, got a {kind}; leave {' and '.join(wrong)} out, or have no "
                f"client with a {kind}",
                key=wrong[0],
            )

    def check_mixed(self, tables: int) -> None:
        """Demand that a temperature, where one is set, has several tables to mix.

        Raises:
            SettingsError: it has not.
        """
        if tables < _MIXED and self.temperature != _default("temperature"):
            raise SettingsError(
                f"rows.temperature mixes several tables of a client, got {self.temperature:g} for {tables} table; name "
                "more tables, or leave the temperature out",
                key="rows.temperature",
            )

    def mixed(self, tables: Mapping[str, Columns], *, seed: int, client: str, task: object = None) -> BatchSource:
        """The source of a client's tables: one table as it is, several mixed in every batch.

        Args:
            tables: by name, at least one, all of one schema.
            seed: seed of the run.
            client: name of the client.
            task: what is learnt. Where it has them, `difficulty(columns)` scores rows for a curriculum, low is easy,
                `(examples,)`; `label` names the column that neighbours do not show; `hops` is how far its model looks.

        Raises:
            SettingsError: a technique needs what the task or the tables do not have, or as the sources themselves.
            ShapeError: the tables' columns differ.
        """
        if len(tables) == 1:
            return self.ahead(self._cut(*tables.values(), seed=seed, client=client, task=task))
        if self.buckets:
            raise SettingsError(
                f"buckets sort one table by length, got {len(tables)} of client {client!r}; join them, or leave "
                "rows.buckets out",
                key="rows.buckets",
            )
        if self.sampling == "poisson":
            raise SettingsError(
                f"rows are drawn by chance from one table, got {len(tables)} of client {client!r}; join them, or leave "
                "rows.sampling out",
                key="rows.sampling",
            )
        parts = {
            name: self._cut(columns, seed=seed, client=f"{client}/{name}", task=task)
            for name, columns in tables.items()
        }
        return self.ahead(Mixture(parts, self.temperature, seed=seed, client=client))

    def fetched(
        self, dataset: MapDataset, schema: Schema, *, rows: NDArray[Any] | None = None, seed: int, client: str
    ) -> BatchSource:
        """The source of a client's dataset.

        Args:
            dataset: its rows become columns as `fedmb.batch.dataset.following` says.
            schema: the task's.
            rows: numbers of the rows that this client has; None is every row.
            seed: seed of the run.
            client: name of the client.

        Raises:
            SettingsError: a technique needs a table, or there is no row.
            ShapeError: the first row does not follow the schema.
        """
        self.check_against("dataset")
        together = functools.partial(following, schema)
        return self.ahead(
            dataset_source(
                dataset, seed=seed, client=client, tail=self.tail, rows=rows, collate=together, schema=schema
            )
        )

    def _cut(self, columns: Columns, *, seed: int, client: str, task: object) -> BatchSource:
        """One private table, cut and opened up as these settings say."""
        if self.buckets is not None:
            return self.buckets.source(columns, seed=seed, client=client)
        if self.graph is not None:
            targets = {str(getattr(task, "label", None))} & columns.keys()
            hops = getattr(task, "hops", None)
            return self.graph.source(
                columns, targets=sorted(targets), hops=hops, seed=seed, client=client, tail=self.tail
            )
        if self.sampling == "poisson":
            return PoissonSource(columns, seed=seed, client=client)
        if self.curriculum_samples is None:
            return TableSource(columns, seed=seed, client=client, tail=self.tail)
        difficulty = getattr(task, "difficulty", None)
        if difficulty is None:
            raise SettingsError(
                "a curriculum needs a score of each row, got a task without difficulty(columns); add it to the "
                "task, or leave rows.curriculum_samples out",
                key="rows.curriculum_samples",
            )
        pace = root_pace(self.curriculum_start, self.curriculum_samples)
        return Curriculum(columns, difficulty, pace, seed=seed, client=client, tail=self.tail)

    def ahead(self, source: BatchSource) -> BatchSource:
        """`source` behind a `Prefetch` of the set depth, or as it is."""
        return Prefetch(source, self.prefetch) if self.prefetch else source


def _default(name: str) -> object:
    return Rows.model_fields[name].default
