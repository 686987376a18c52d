"""`fedmb model list`: which versions a run keeps."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations when it runs
from typing import Annotated

import typer


def list(  # noqa: A001  # the word on the command line
    run: Annotated[Path, typer.Argument(help="Directory of the run.")],
) -> int:
    """List the versions of the model that a run keeps."""
    from fedmb.federation.versions import kept, listed

    print(listed(kept(run)))
    return 0
