"""Uniform replay: each of the newest rows is equally likely."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Columns, MiniBatch, Schema
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from fedmb.replay.ring import Ring

SPARE = 2  # times the window; a run that resumes up to a window of rows back still finds every row it could draw then


def capacity_for(window: int) -> int:
    """Rows a ring should hold so that a rewind by up to `window` rows loses nothing from the window."""
    return SPARE * window


class UniformReplay:
    """Draws rows, with replacement, uniformly from the newest `window` rows of a ring.

    Keeps no random generator: a draw depends on (seed, client, its number) and on the row numbers in the window, not
    on how far a mapped ring had run ahead before a crash.

    Args:
        ring: the rows; has room for at least `window`, better `capacity_for(window)`.
        window: how many of the newest rows can be drawn.
        seed: the run's seed.
        client: name or number of this site.

    Raises:
        SettingsError: the window is below 1 or larger than the ring, or the seed is negative.
    """

    def __init__(self, ring: Ring, window: int, *, seed: int, client: str | int) -> None:
        if not 1 <= window <= ring.capacity:
            raise SettingsError(
                f"a replay window must be 1 to the ring's {ring.capacity} rows, got {window}; give the ring "
                f"{capacity_for(window)} rows or lower the window",
                key="window",
            )
        if seed < 0:
            raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
        self._ring = ring
        self._window = window
        self._seed = int(seed)
        # NumPy integers print differently from Python's, and keys are hashed as printed.
        self._client = client if isinstance(client, str) else int(client)

    def __len__(self) -> int:
        """Rows that can be drawn now."""
        return min(self._window, len(self._ring.kept))

    @property
    def schema(self) -> Schema:
        """Columns of every row."""
        return self._ring.schema

    @property
    def appended(self) -> int:
        """Rows remembered so far, forgotten ones included."""
        return self._ring.appended

    def append(self, columns: Columns) -> range:
        """Remember rows and answer their numbers.

        Raises:
            ShapeError: columns do not follow the schema.
        """
        return self._ring.append(columns)

    def sample(self, size: int, draw: int, *, cursor: int | None = None) -> MiniBatch:
        """`size` rows from the newest `window` rows before row number `cursor`, in fresh arrays, without a span.

        Args:
            size: rows wanted; may exceed the rows there are.
            draw: number of this draw; the same number gives the same rows while the window holds the same ones.
            cursor: None means after the newest row.

        Raises:
            NotEnoughData: no row of that window is kept, or `cursor` lies beyond the newest row.
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a draw must ask for 1 row or more, got {size}")
        kept = self._ring.kept
        stop = kept.stop if cursor is None else cursor
        start = max(kept.start, stop - self._window)
        if start >= stop or stop > kept.stop:
            raise NotEnoughData(
                f"a draw needs the rows before row {stop}, kept are {len(kept)} before row {kept.stop}; append some "
                "first or lower the cursor"
            )
        row_ids = generator(self._seed, self._client, draw, "replay").integers(start, stop, size, np.int64)
        return MiniBatch(self._ring.gather(row_ids), origins={"replay": size})

    def rewind(self, appended: int) -> int:
        """Go to where `appended` rows were remembered; answers how many rows of the window then are lost for good.

        Raises:
            ValueError: `appended` is negative.
        """
        return self._ring.rewind(appended, needed=self._window)

    def flush(self) -> None:
        """Make the rows survive a power cut, where the ring has a file."""
        self._ring.flush()

    def close(self) -> None:
        """Close the ring."""
        self._ring.close()
