"""Settings of the rows arrow: how a private table is cut into batches and how far ahead they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from fedmb.batch.curriculum import Curriculum, root_pace
from fedmb.batch.mixture import Mixture
from fedmb.batch.prefetch import Prefetch
from fedmb.batch.table import TableSource, Tail
from fedmb.errors import SettingsError
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns
    from fedmb.batch.source import BatchSource


class Rows(Section):
    """How rows become mini-batches."""

    tail: Tail = "balance"
    """Rows left over at the end of an epoch: level batches (balance), a short one (keep), or none of them (drop)."""
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

    def mixed(
        self,
        tables: Mapping[str, Columns],
        *,
        seed: int,
        client: str,
        difficulty: Callable[[Columns], NDArray[Any]] | None = None,
    ) -> BatchSource:
        """The source of a client's tables: one table as it is, several mixed in every batch.

        Args:
            tables: by name, at least one, all of one schema.
            seed: seed of the run.
            client: name of the client.
            difficulty: scores rows, low is easy, `(examples,)`; needed by a curriculum.

        Raises:
            SettingsError: a curriculum is asked for and nothing scores the rows, or as the sources themselves.
            ShapeError: the tables' columns differ.
        """
        if len(tables) == 1:
            return self.ahead(self._cut(*tables.values(), seed=seed, client=client, difficulty=difficulty))
        parts = {
            name: self._cut(columns, seed=seed, client=f"{client}/{name}", difficulty=difficulty)
            for name, columns in tables.items()
        }
        return self.ahead(Mixture(parts, self.temperature, seed=seed, client=client))

    def _cut(
        self,
        columns: Columns,
        *,
        seed: int,
        client: str,
        difficulty: Callable[[Columns], NDArray[Any]] | None,
    ) -> BatchSource:
        """One private table, cut and opened up as these settings say."""
        if self.curriculum_samples is None:
            return TableSource(columns, seed=seed, client=client, tail=self.tail)
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
