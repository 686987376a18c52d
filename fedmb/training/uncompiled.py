"""Spares processes torch's compiler, which every optimiser of torch imports when it is made and when it steps.

It does so for two marks that only `torch.compile` reads: where a traced graph is to break, and which functions a trace
is to leave alone. Whoever compiles nothing pays 1.4 to 2.7 s of CPU time for them at the start, and 160 MB. A module
with these two stands in its place until something else of the compiler is asked for; `torch.utils.checkpoint` does so.

A backward pass from a vector imports sympy, for shapes that only the compiler has: another second. `backward_from` does
not.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec

    from torch import Tensor

COMPILER = "torch._dynamo"
_run: Callable[..., Any] | None = getattr(graph, "_engine_run_backward", None)  # as of torch 2.9 to 2.13


def spare_compiler() -> None:
    """Let optimisers do without the compiler until somebody compiles; does nothing where it is imported already."""
    if COMPILER not in sys.modules and (found := find_spec(COMPILER)) is not None:
        stand_in = _StandIn(found)
        sys.modules[COMPILER] = stand_in
        setattr(torch, COMPILER.rpartition(".")[2], stand_in)  # `import torch._dynamo` binds `torch` alone


def backward_from(values: Tensor, weights: Tensor) -> None:
    """What `values.backward(weights)` does, for both `(examples,)` and of one dtype.

    Also a tenth of a small step faster: `_engine_run_backward` is what torch calls after its checks.
    """
    if type(values) is torch.Tensor and _run is not None:
        is_kept = is_differentiated = False  # the graph, and this pass
        _run((values,), (weights,), is_kept, is_differentiated, (), allow_unreachable=True, accumulate_grad=True)
    else:
        torch.autograd.backward(values, weights)


class _StandIn(ModuleType):
    """In the compiler's place until anything but `graph_break` and torch's own `disable` is asked of it."""

    def __init__(self, found: ModuleSpec) -> None:
        super().__init__(found.name)
        # What imports and `inspect` look at in every module that there is.
        told = {"__spec__": found, "__file__": found.origin, "__loader__": found.loader, "__package__": found.name}
        self.__dict__.update(told, _lock=RLock())

    def graph_break(self, msg: str = "") -> None:
        """Nothing to break: nobody traces."""

    def disable(self, fn: Any = None, recursive: bool = True, **options: Any) -> Any:
        """`fn` as it is while nobody compiles, where torch marks a function of its own."""
        if not isinstance(fn, FunctionType) or options != {"wrapping": False}:
            return self._compiler().disable(fn, recursive, **options)
        return _marked(self, fn, recursive=recursive)

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked for, of the compiler."""
        return getattr(self._compiler(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """On the compiler: so the import system binds its parts."""
        setattr(self._compiler(), name, value)

    def _compiler(self) -> ModuleType:
        """The compiler, imported in this module's place."""
        with self.__dict__["_lock"]:
            if sys.modules.get(COMPILER) is self:
                del sys.modules[COMPILER]
                try:
                    import_module(COMPILER)
                except BaseException:
                    sys.modules[COMPILER] = self
                    raise
            return sys.modules[COMPILER]


def _marked(stand_in: _StandIn, function: Callable[..., Any], *, recursive: bool) -> Callable[..., Any]:
    """Calls `function`, marked as soon as the compiler is there to see it."""
    marked: list[Callable[..., Any]] = []

    def call(*args: Any, **options: Any) -> Any:
        if not marked:
            if sys.modules.get(COMPILER) is stand_in:
                return function(*args, **options)
            compiler: Any = sys.modules[COMPILER]
            marked.append(compiler.disable(function, recursive, wrapping=False))
        return marked[0](*args, **options)

    return call
