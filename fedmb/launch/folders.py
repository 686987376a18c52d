"""Where the process folders are."""

from __future__ import annotations

from pathlib import Path

from fedmb.errors import FedmbError

PROCESS_FOLDERS = ("clients", "server", "streams")


def bundle() -> Path:
    """The directory that holds `clients/`, `server/` and `streams/`.

    In an installed wheel it is `fedmb/bundle`, in a checkout the root.

    Raises:
        FedmbError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package / "bundle", package.parent):
        if all((place / folder).is_dir() for folder in PROCESS_FOLDERS):
            return place
    raise FedmbError(
        f"the folders {', '.join(PROCESS_FOLDERS)} must stand in {package / 'bundle'} or {package.parent}, got "
        "neither; install fedmb again"
    )
