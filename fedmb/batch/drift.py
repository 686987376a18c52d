"""A stream of real rows whose label mix changes, made from a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import SettingsError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns


@dataclass(frozen=True, slots=True)
class Phase:
    """From record `from_record` on, rows carry one of `labels`."""

    from_record: int
    labels: Sequence[int]


class DriftingRows:
    """Endless records of rows drawn from a table, each record a pure function of its number.

    Record k holds `rows_per_record` rows drawn with replacement, labels of the current phase equally likely. So a
    feeder that was killed continues with the very record it would have written.

    Args:
        columns: the table, first axis `(examples, ...)`.
        label: its integer label column.
        phases: label mixes, by rising `from_record`, the first from record 0.
        rows_per_record: rows packed into one record.
        seed: seed of the run.
        stream: name of the stream; two streams of one seed draw differently.
    """

    def __init__(
        self, columns: Columns, *, label: str, phases: Sequence[Phase], rows_per_record: int, seed: int, stream: str
    ) -> None:
        starts = [phase.from_record for phase in phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise SettingsError(f"phases must start at record 0 and rise, got starts {starts}; sort and merge them")
        self.columns = columns
        self.phases = tuple(phases)
        self.rows_per_record = rows_per_record
        self._seed = seed
        self._stream = stream
        self._by_label: dict[int, NDArray[np.intp]] = {}
        for wanted in {one for phase in phases for one in phase.labels}:
            found = np.flatnonzero(columns[label] == wanted)
            if not len(found):
                raise SettingsError(
                    f"every label of a phase must occur in the stream's table, {wanted} does not; "
                    "leave it out or give the stream more rows"
                )
            self._by_label[wanted] = found

    def phase_of(self, record: int) -> Phase:
        """The phase that record number `record` belongs to."""
        return next(phase for phase in reversed(self.phases) if phase.from_record <= record)

    def __call__(self, record: int) -> dict[str, NDArray[Any]]:
        """Columns of record number `record`, `rows_per_record` rows."""
        random = generator(self._seed, self._stream, record, "drifting rows")
        labels = self.phase_of(record).labels
        drawn = [self._by_label[labels[pick]] for pick in random.integers(len(labels), size=self.rows_per_record)]
        index = np.array(
            [rows[int(place * len(rows))] for rows, place in zip(drawn, random.random(len(drawn)), strict=True)]
        )
        return {name: array.take(index, axis=0) for name, array in self.columns.items()}
