"""Flower's programs that every message or every start pays for, without what their packages import beside them.

`flwr-clientapp` is a new process for each message. Its package imports the SuperNode too, with a database and a web
framework: 0.65 s of its 1.5 s on a processor. The package of `flower-superexec` imports programs for agents, as long;
that of `flwr-serverapp` the whole SuperLink, 0.9 s. So the one module is imported alone, its package as an empty one.
Where a later Flower has no such module, or does not bear that, its program is run as it is. Nobody collects garbage
while modules are imported, which makes none and takes a fifth of the time of the SuperNode's.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, cast

from fedmb.access.server_clock import follow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUBMODULES = {
    "flwr-clientapp": ("flwr.supernode.cli", "flwr_clientapp"),
    "flower-superexec": ("flwr.supercore.cli", "flower_superexec"),
    "flower-supernode": ("flwr.supernode.cli", "flower_supernode"),
    "flwr-serverapp": ("flwr.superlink.cli", "flwr_serverapp"),
}
"""Package and module of each program; the function in it has the module's name."""


def program(name: str) -> Callable[[], Any]:
    """The function that the program of this name calls; a SuperNode signs by its server's clock."""
    with _without_collections():
        if name == "flower-supernode":
            follow()
        return _function(*SUBMODULES[name])


def _function(package: str, module: str) -> Callable[[], Any]:
    spec = find_spec(package)
    if spec is not None:
        sys.modules[package] = module_from_spec(spec)
        try:
            return cast("Callable[[], Any]", getattr(import_module(f"{package}.{module}"), module))
        except (ImportError, AttributeError):
            del sys.modules[package]
    return cast("Callable[[], Any]", getattr(import_module(package), module))


@contextmanager
def _without_collections() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # modules stay; no later collection need look at them
        if was_on:
            gc.enable()
