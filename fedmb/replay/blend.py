"""Fresh rows and replayed ones in one mini-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import MiniBatch, Schema, concatenated
from fedmb.batch.replay_share import ReplayShare
from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.remembered import RemembersLosses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.source import BatchSource, SourcePosition
    from fedmb.replay.remembered import Remembered

POSITION_KEYS = {"fresh", "appended", "draws"}
OPTIONAL_KEYS = {"share", "losses"}


class Blend:
    """A source that fills a share of every batch with replayed rows and remembers the fresh ones; a `BatchSource`.

    Fresh rows come first, in their order and with their span, replayed rows behind them. Replayed rows are drawn from
    what was remembered before this batch. While fewer rows are remembered than the share asks for, fresh rows take
    their place; where the fresh source gives fewer rows than asked, the replayed part shrinks with it, so the share
    holds. At least one row is fresh. Masked fresh rows are not remembered; a replayed row weighs one unit, or its
    importance weight where the memory draws by loss.

    The share may be changed while it runs; the position says so while it is not the one the blend was made with.

    To resume bitwise the memory must be a mapped one that ran at most a window of rows ahead of the position; otherwise
    it begins smaller, which it logs.

    A memory that draws by loss makes the blend a `LossListener`: losses of all batches are to be told before its
    position is asked for.

    Args:
        fresh: where new rows come from; closed with this source.
        replay: where they are remembered; closed with this source. Not written while `share` is 0.
        share: part of a batch that is replayed, from 0 to below 1.

    Raises:
        SettingsError: `share` is out of range.
        ShapeError: the memory's columns are not those of the fresh source.
    """

    def __init__(self, fresh: BatchSource, replay: Remembered, share: float) -> None:
        _check_share(share)
        if dict(fresh.schema) != dict(replay.schema):
            raise ShapeError(
                f"a memory's columns must be the fresh source's {dict(fresh.schema)}, got {dict(replay.schema)}; make "
                "the ring with the source's schema"
            )
        self._fresh = fresh
        self._replay = replay
        self._losses = replay if share and isinstance(replay, RemembersLosses) else None
        self._usual = self._share = share
        self._draws = 0

    @property
    def schema(self) -> Schema:
        """Columns of the fresh source."""
        return self._fresh.schema

    @property
    def examples_per_epoch(self) -> float:
        """Fresh rows in one pass over the fresh source."""
        return self._fresh.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """Fresh rows and replayed ones, at most `size` together; blocks as the fresh source does.

        Raises:
            NotEnoughData: the fresh source has none; nothing is drawn or remembered.
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}")
        replayed = min(round(size * self._share), size - 1, len(self._replay))
        asked = size - replayed
        fresh = self._fresh.take(asked)
        replayed = round(replayed * len(fresh) / asked)
        parts = [fresh]
        if replayed:
            parts.append(self._replay.sample(replayed, self._draws))
            self._draws += 1
        if self._usual:  # also while nothing is replayed for a time
            self._remember(fresh, replayed)
        return concatenated(parts)

    @property
    def replay_share(self) -> ReplayShare | None:
        """The share; None for a blend made with a share of 0, which remembers nothing."""
        return ReplayShare(self._usual, self._share) if self._usual else None

    def change_replay_share(self, share: float) -> None:
        """Fill this part of every batch from the next one on.

        Raises:
            SettingsError: the share is not 0 to below 1, or the blend was made with 0 and remembers nothing.
        """
        _check_share(share)
        if not self._usual:
            raise SettingsError(
                f"a changed share needs remembered rows, got {share} for a blend made with 0, which keeps none; make "
                "it with a share",
                key="share",
            )
        self._share = share

    def position(self) -> SourcePosition:
        """The fresh source's position, rows remembered and draws made so far, and a share that was changed."""
        appended = self._replay.appended if self._usual else 0
        changed = {} if self._share == self._usual else {"share": self._share}
        losses = {"losses": self._losses.kept_losses()} if self._losses is not None else {}
        return {"fresh": self._fresh.position(), "appended": appended, "draws": self._draws, **changed, **losses}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning, with nothing remembered.

        Raises:
            ValueError: the position belongs to another kind of source.
        """
        target = position or {"fresh": {}, "appended": 0, "draws": 0}
        numbers = [target.get("appended"), target.get("draws")]
        share = target.get("share", self._usual)
        valid = target.keys() - OPTIONAL_KEYS == POSITION_KEYS and all(type(n) is int and n >= 0 for n in numbers)
        valid = valid and isinstance(share, int | float) and (share == self._usual or 0 <= share < bool(self._usual))
        if not valid or not isinstance(target["fresh"], dict):
            raise ValueError(
                "a blend's position must be {'fresh': position, 'appended': 0.., 'draws': 0..} and perhaps a 'share' "
                f"below 1, got {position!r}; it belongs to another source"
            )
        self._fresh.seek(target["fresh"])
        if self._usual:
            self._replay.rewind(target["appended"])
        if self._losses is not None:
            self._losses.restore_losses(str(target.get("losses", "")))
        self._draws, self._share = target["draws"], share

    @property
    def listens(self) -> bool:
        """Whether the memory draws by loss."""
        return self._losses is not None

    @property
    def batches(self) -> int:
        """Number of the batch that the next `take` gives; 0 where nobody listens."""
        return self._losses.batches if self._losses is not None else 0

    @property
    def wants_losses(self) -> bool:
        """Whether the next `take` depends on losses of batches before it that were not told yet."""
        return self._losses is not None and self._losses.wants_losses

    def hear(self, batch: int, losses: NDArray[np.float32]) -> None:
        """Let the memory know the loss of each row of a batch, `(rows,)`, in its order; NaN is not known."""
        if self._losses is not None:
            self._losses.hear(batch, losses)

    def close(self) -> None:
        """Close the fresh source and the memory."""
        self._fresh.close()
        self._replay.close()

    def _remember(self, fresh: MiniBatch, replayed: int) -> None:
        kept = slice(None) if fresh.mask is None else np.flatnonzero(fresh.mask)
        columns = fresh.columns
        if fresh.mask is not None:
            columns = {name: array[kept] for name, array in fresh.columns.items()}
        numbers = self._replay.append(columns)
        if self._losses is not None:
            rows = np.full(len(fresh) + replayed, -1)
            rows[: len(fresh)][kept] = numbers
            rows[len(fresh) :] = self._losses.drawn[:replayed]
            self._losses.expect(rows)


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise SettingsError(
            f"the replayed share must be 0 to below 1, got {share}; at 1 nothing new is learnt", key="share"
        )
