"""How the processes of a federation are started: folders, command lines, children that never outlive their parent."""

from __future__ import annotations

from fedmb.launch.folders import PROCESS_FOLDERS, bundle

__all__ = ["PROCESS_FOLDERS", "bundle"]
