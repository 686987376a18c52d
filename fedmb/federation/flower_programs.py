"""Flower's programs that every message or every start pays for, without what their packages import beside them.

`flwr-clientapp` is a new process for each message. Its package imports the SuperNode too, with a database and a web
framework: 0.65 s of its 1.5 s on a processor. The package of `flower-superexec` imports programs for agents, as long;
that of `flwr-serverapp` the whole SuperLink, 0.9 s. So the one module is imported alone, its package as an empty one.
Where a later Flower has no such module, or does not bear that, its program is run as it is.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

SUBMODULES = {
    "flwr-clientapp": ("flwr.supernode.cli", "flwr_clientapp"),
    "flower-superexec": ("flwr.supercore.cli", "flower_superexec"),
    "flwr-serverapp": ("flwr.superlink.cli", "flwr_serverapp"),
}
"""Package and module of each program; the function in it has the module's name."""


def program(name: str) -> Callable[[], Any]:
    """The function that the program of this name calls."""
    package, module = SUBMODULES[name]
    spec = find_spec(package)
    if spec is not None:
        sys.modules[package] = module_from_spec(spec)
        try:
            return cast("Callable[[], Any]", getattr(import_module(f"{package}.{module}"), module))
        except (ImportError, AttributeError):
            del sys.modules[package]
    return cast("Callable[[], Any]", getattr(import_module(package), module))
