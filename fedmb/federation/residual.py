"""What a client's compression has not sent yet, kept until the server has what was sent.

The name of what is kept, a version of the model, travels in the client's position, which the server stores with every
update that it takes. So a client whose update was dropped, or whose server resumed from an older checkpoint, goes on
from what was left before that update, and nothing is lost or sent twice.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fedmb.errors import ShapeError
from fedmb.training.kept_arrays import KeptArrays

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedmb.aggregation.compress_parts import Vector

log = logging.getLogger(__name__)

PLACE = "residual"  # in a client's position
_LEFT = "left"


class Residual:
    """What is left, for the last versions.

    Args:
        directory: the client's own; None keeps it in memory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._kept = KeptArrays("residual", directory)

    def left(self, position: Mapping[str, Any], size: int) -> Vector | None:
        """What the client's position says is left, `size` numbers; None at the beginning.

        Where that is gone or of another model, a warning is logged: what was left is lost, as if it had been sent.
        """
        version = position.get(PLACE)
        if version is None:
            return None
        try:
            if type(version) is int and version in self._kept.versions():
                found: Vector = self._kept.load(version)[_LEFT]
                if found.shape == (size,):
                    return found
        except (OSError, ShapeError, KeyError) as error:
            log.warning("residual damaged version=%s reason=%s", version, error)
        log.warning("residual lost version=%s kept=%s", version, self._kept.versions())
        return None

    def keep(self, left: Vector, version: int) -> dict[str, int]:
        """Keep what a round left; answers what goes into the client's position.

        Raises:
            OSError: the disk is full or fails.
        """
        self._kept.save({_LEFT: left}, version)
        return {PLACE: version}
