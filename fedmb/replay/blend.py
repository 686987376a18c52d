"""Fresh rows and replayed ones in one mini-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import MiniBatch, Schema, concatenated
from fedmb.batch.replay_share import ReplayShare
from fedmb.errors import SettingsError, ShapeError

if TYPE_CHECKING:
    from fedmb.batch.source import BatchSource, SourcePosition
    from fedmb.replay.uniform import UniformReplay

POSITION_KEYS = {"fresh", "appended", "draws"}


class Blend:
    """A source that fills a share of every batch with replayed rows and remembers the fresh ones; a `BatchSource`.

    Fresh rows come first, in their order and with their span, replayed rows behind them. Replayed rows are drawn from
    what was remembered before this batch. While fewer rows are remembered than the share asks for, fresh rows take
    their place; where the fresh source gives fewer rows than asked, the replayed part shrinks with it, so the share
    holds. At least one row is fresh. Masked fresh rows are not remembered, and a replayed row weighs one unit.

    The share may be changed while it runs; the position says so while it is not the one the blend was made with.

    To resume bitwise the ring must be a mapped one that ran at most its capacity less its window ahead of the
    position; otherwise the window begins smaller, which the ring logs.

    Args:
        fresh: where new rows come from; closed with this source.
        replay: where they are remembered; closed with this source. Not written while `share` is 0.
        share: part of a batch that is replayed, from 0 to below 1.

    Raises:
        SettingsError: `share` is out of range.
        ShapeError: the ring's columns are not those of the fresh source.
    """

    def __init__(self, fresh: BatchSource, replay: UniformReplay, share: float) -> None:
        _check_share(share)
        if dict(fresh.schema) != dict(replay.schema):
            raise ShapeError(
                f"the ring's columns must be the fresh source's {dict(fresh.schema)}, got {dict(replay.schema)}; make "
                "the ring with the source's schema"
            )
        self._fresh = fresh
        self._replay = replay
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
            self._remember(fresh)
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
        return {"fresh": self._fresh.position(), "appended": appended, "draws": self._draws, **changed}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning, with nothing remembered.

        Raises:
            ValueError: the position belongs to another kind of source.
        """
        target = position or {"fresh": {}, "appended": 0, "draws": 0}
        numbers = [target.get("appended"), target.get("draws")]
        share = target.get("share", self._usual)
        valid = target.keys() - {"share"} == POSITION_KEYS and all(type(n) is int and n >= 0 for n in numbers)
        valid = valid and isinstance(share, int | float) and (share == self._usual or 0 <= share < bool(self._usual))
        if not valid or not isinstance(target["fresh"], dict):
            raise ValueError(
                "a blend's position must be {'fresh': position, 'appended': 0.., 'draws': 0..} and perhaps a 'share' "
                f"below 1, got {position!r}; it belongs to another source"
            )
        self._fresh.seek(target["fresh"])
        if self._usual:
            self._replay.rewind(target["appended"])
        self._draws, self._share = target["draws"], share

    def close(self) -> None:
        """Close the fresh source and the ring."""
        self._fresh.close()
        self._replay.close()

    def _remember(self, fresh: MiniBatch) -> None:
        if fresh.mask is None:
            self._replay.append(fresh.columns)
        else:
            kept = np.flatnonzero(fresh.mask)
            self._replay.append({name: array[kept] for name, array in fresh.columns.items()})


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise SettingsError(
            f"the replayed share must be 0 to below 1, got {share}; at 1 nothing new is learnt", key="share"
        )
