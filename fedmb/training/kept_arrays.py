"""Arrays that a client keeps for itself from round to round, one set for each of the last versions of the model.

A round may be trained again: its update came late, or the server was resumed from an older checkpoint. So a set is kept
under the version that it belongs to, in memory or in checksummed files that a kill leaves whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fedmb.arrays.tensor_bytes import from_bytes, to_bytes
from fedmb.telemetry.run_directory import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_KEPT = 3  # versions: the one in force, the one before for a dropped update, one more for a torn checkpoint


class KeptArrays:
    """Sets of arrays by version.

    Args:
        kind: word that the files' names begin with.
        directory: where they survive the process; None keeps them in memory.
    """

    def __init__(self, kind: str, directory: Path | None = None) -> None:
        self._kind = kind
        self._directory = directory
        self._memory: dict[int, Mapping[str, NDArray[Any]]] = {}
        self._name = re.compile(rf"{re.escape(kind)}-(\d+)\.safetensors")

    def versions(self) -> list[int]:
        """Versions of which a set is kept, rising."""
        if self._directory is None:
            return sorted(self._memory)
        found = (self._name.fullmatch(path.name) for path in self._directory.glob(f"{self._kind}-*.safetensors"))
        return sorted(int(match[1]) for match in found if match)

    def load(self, version: int) -> Mapping[str, NDArray[Any]]:
        """The set of a version that is in `versions`; read-only.

        Raises:
            ShapeError: its file is damaged.
        """
        if self._directory is None:
            return self._memory[version]
        arrays, _ = from_bytes(self._path(self._directory, version).read_bytes())
        return arrays

    def save(self, arrays: Mapping[str, NDArray[Any]], version: int, *, holding: int | None = None) -> None:
        """Keep `arrays` for `version`, in place of what was; sets of much older versions go, but for one in force.

        Args:
            arrays: the set.
            version: the one that it belongs to.
            holding: a version whose set stays, however many came after it and were dropped.
        """
        stale = [one for one in self.versions()[: -_KEPT + 1] if one != holding]
        if self._directory is None:
            self._memory[version] = arrays
            for one in stale:
                self._memory.pop(one, None)
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(self._directory, version), to_bytes(arrays, checksum=True))
        for one in stale:
            self._path(self._directory, one).unlink(missing_ok=True)

    def _path(self, directory: Path, version: int) -> Path:
        return directory / f"{self._kind}-{version}.safetensors"
