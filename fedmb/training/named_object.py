"""Classes and functions that settings name as `module:name`, the user's own or a library's."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIBRARY = "torch.optim:"


def named_object(name: str, *, key: str, example: str) -> Any:  # whatever stands there
    """What `name`, written `module:name`, stands for.

    Args:
        name: as the settings have it.
        key: the setting, for the error.
        example: how one is written, for the error.

    Raises:
        SettingsError: it is not written so, or cannot be imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise SettingsError(f"{key} must be written module:name, got {name!r}; for example {example}", key=key)
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does, but last: a user's folder adds modules and hides none
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"{key} must be importable, got {name!r}: {error}; run where its module can be found, or set PYTHONPATH",
            key=key,
        ) from error


def check_code(asked: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Let a server choose among the code that its client's settings name, and torch's, and no other.

    Args:
        asked: the server's `[training]`.
        own: the client's.

    Raises:
        SettingsError: it names other code.
    """
    for key in ("optimizer", "dropout"):
        name = asked.get(key)
        if isinstance(name, str) and ":" in name and not name.startswith(_LIBRARY) and name != own.get(key):
            raise SettingsError(
                f"a client runs code that it names itself, got training.{key} = {name!r} from the server; set "
                f"training.{key} to it in the client's settings too",
                key=f"training.{key}",
            )
