"""Parts of a model that stay with their client: batch-norm layers (FedBN) or their statistics (SiloBN).

The client overlays them on the global model before it trains, and sends the values it received in their place, so the
global model keeps its own and nothing local leaves the site. They are kept by version: a client whose update was
dropped, or whose server resumed from an older checkpoint, goes on from what belongs to the version it is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save

from fedmb.telemetry.run_directory import write_atomically

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.update import Arrays

_KEPT = 3  # versions: the one in force, the one before for a dropped update, one more for a torn checkpoint
_NAME = re.compile(r"local-(\d+)\.safetensors")


class LocalArrays:
    """Keeps the arrays called `names` on the client, in memory or in files.

    Args:
        names: `state_dict` names that do not travel; none makes every call free.
        directory: where they survive the process; None keeps them in memory.
    """

    def __init__(self, names: Collection[str], directory: Path | None = None) -> None:
        self.names = frozenset(names)
        self._directory = directory
        self._memory: dict[int, dict[str, NDArray[Any]]] = {}

    def overlaid(self, arrays: Arrays, version: int) -> Arrays:
        """The global model of `version` with this client's own arrays; all global before its first round."""
        if not self.names:
            return arrays
        known = [one for one in self._versions() if one <= version]
        return {**arrays, **self._load(max(known))} if known else arrays

    def withheld(self, trained: Arrays, received: Arrays, version: int) -> Arrays:
        """Keep the client's own arrays for `version`, and answer what may be sent: `received` in their place."""
        if not self.names:
            return trained
        self._save({name: np.array(trained[name]) for name in sorted(self.names)}, version)
        return {**trained, **{name: received[name] for name in self.names}}

    def _versions(self) -> list[int]:
        if self._directory is None:
            return sorted(self._memory)
        found = (_NAME.fullmatch(path.name) for path in self._directory.glob("local-*.safetensors"))
        return sorted(int(match[1]) for match in found if match)

    def _load(self, version: int) -> dict[str, NDArray[Any]]:
        if self._directory is None:
            return self._memory[version]
        arrays: dict[str, NDArray[Any]] = load_file(self._directory / f"local-{version}.safetensors")
        return arrays

    def _save(self, arrays: dict[str, NDArray[Any]], version: int) -> None:
        stale = self._versions()[: -_KEPT + 1]
        if self._directory is None:
            self._memory[version] = arrays
            for one in stale:
                self._memory.pop(one, None)
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._directory / f"local-{version}.safetensors", save(arrays))
        for one in stale:
            (self._directory / f"local-{one}.safetensors").unlink(missing_ok=True)
