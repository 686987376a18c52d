"""Parts of a model that stay with their client: batch-norm layers (FedBN) or their statistics (SiloBN).

The client overlays them on the global model before it trains, and sends the values it received in their place, so the
global model keeps its own and nothing local leaves the site. They are kept by version: a client whose update was
dropped, or whose server resumed from an older checkpoint, goes on from what belongs to the version it is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.training.kept_arrays import KeptArrays

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from fedmb.update import Arrays


class LocalArrays:
    """Keeps the arrays called `names` on the client, in memory or in files.

    Args:
        names: `state_dict` names that do not travel; none makes every call free.
        directory: where they survive the process; None keeps them in memory.
    """

    def __init__(self, names: Collection[str], directory: Path | None = None) -> None:
        self.names = frozenset(names)
        self._kept = KeptArrays("local", directory)

    def overlaid(self, arrays: Arrays, version: int) -> Arrays:
        """The global model of `version` with this client's own arrays; all global before its first round."""
        if not self.names:
            return arrays
        known = [one for one in self._kept.versions() if one <= version]
        return {**arrays, **self._kept.load(max(known))} if known else arrays

    def withheld(self, trained: Arrays, received: Arrays, version: int) -> Arrays:
        """Keep the client's own arrays for `version`, and answer what may be sent: `received` in their place."""
        if not self.names:
            return trained
        self._kept.save({name: np.array(trained[name]) for name in sorted(self.names)}, version)
        return {**trained, **{name: received[name] for name in self.names}}
