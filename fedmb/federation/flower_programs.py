"""Flower's programs that every message or every start pays for, without what they import and do not use.

`flwr-clientapp` is a new process for each message. Its package imports the SuperNode too, with a database and a web
framework: 0.65 s of its 1.5 s on a processor. The package of `flower-superexec` imports programs for agents, as long;
that of `flwr-serverapp` the whole SuperLink, 0.9 s. So the one module is imported alone, its package as an empty one.
All but one keep state in memory and import SQLAlchemy and Alembic, 0.3 s, for those that do not; these are imported by
whoever opens a database. Nobody collects garbage while modules are imported, which makes none and takes a fifth of the
time of the SuperNode's.

Where a later Flower has no such module, or does not bear that, its program is run as it is.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from fedmb.access.server_clock import follow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUBMODULES = {
    "flwr-clientapp": ("flwr.supernode.cli", "flwr_clientapp"),
    "flower-superexec": ("flwr.supercore.cli", "flower_superexec"),
    "flower-superlink": ("flwr.superlink.cli", "flower_superlink"),
    "flower-supernode": ("flwr.supernode.cli", "flower_supernode"),
    "flwr-serverapp": ("flwr.superlink.cli", "flwr_serverapp"),
}
"""Package and module of each program; the function in it has the module's name."""
DATABASES = {
    "flwr.supercore.object_store.sql_object_store": "SqlObjectStore",
    "flwr.server.superlink.linkstate.sql_linkstate": "SqlLinkState",
}
"""Modules that need a database, and the class in each that opens it."""


def program(name: str) -> Callable[[], Any]:
    """The function that the program of this name calls; a SuperNode signs by its server's clock."""
    with _without_collections():
        _put_off_databases()
        sys.modules.setdefault("httpx._main", cast("ModuleType", None))  # its command line, 50 ms; it may be absent
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


def _put_off_databases() -> None:
    for module, name in DATABASES.items():
        if module not in sys.modules:
            sys.modules[module] = stand_in = ModuleType(module)
            vars(stand_in).update({name: partial(_opened, stand_in, name), "__getattr__": partial(_read, stand_in)})


def _opened(stand_in: ModuleType, name: str, *told: Any, **named: Any) -> Any:
    """An instance of the class itself."""
    return getattr(_real(stand_in), name)(*told, **named)


def _read(stand_in: ModuleType, name: str) -> Any:
    if name.startswith("__"):  # imports ask for some of each module
        raise AttributeError(name)
    return getattr(_real(stand_in), name)


def _real(stand_in: ModuleType) -> ModuleType:
    """The module in whose place another one stands, imported now."""
    module = stand_in.__name__
    if sys.modules.get(module) is stand_in:
        del sys.modules[module]
    return import_module(module)


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
