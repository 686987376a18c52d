"""A batch in parts small enough for the memory at hand: whole, of a fixed size, or as large as fits.

    size  = rows whose activations fit: predicted once, halved when memory runs out all the same
    parts = the rows in order, as level as the size allows
    seen  = [backward(part) for part in parts]       # gradients add up; every part divides by the units of all

The split is memory, not mathematics: the gradient is that of the whole batch (invariant I2), and a batch that ran out
of memory starts again from the state it found. Only dropout sees the parts, since its masks are drawn part by part: a
batch that was halved then equals one cut that way from the start.
"""

from __future__ import annotations

import gc
import math
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fedmb.errors import FedmbError, SettingsError
from fedmb.training.free_memory import free_bytes, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from fedmb.batch.minibatch import MiniBatch

T = TypeVar("T")
_SHARE = 0.7  # of free memory; the rest is for gradients in flight, workspaces and fragments, which no hook sees
_PROBE = 2  # rows of the smaller probe at least: batch norm has no variance of one


class OutOfMemory(FedmbError, MemoryError):  # noqa: N818  # the condition's name is the error's name
    """The smallest part of a batch does not fit into memory."""


class Split:
    """How a batch is cut; made by `whole`, `fixed` or `auto`.

    Sizes are remembered for each form of row, so that long sequences do not shrink the parts of short ones. They are
    the whole state: a run resumed on a smaller machine cuts as before until memory runs out.

    Source: halving and taking the same batch again is Composer's `device_train_microbatch_size = "auto"`; what fits is
    predicted by counting, as `saved_bytes` does, and is ours.
    """

    def __init__(self, *, size: float, multiple: int, predict: bool, share: float) -> None:
        if multiple < 1 or not size >= 1 or not 0 < share <= 1:
            raise SettingsError(
                f"size and multiple must be at least 1 and share must lie in (0, 1], got {size}, {multiple} and "
                f"{share}; use Split.whole() for no split"
            )
        if not math.isinf(size) and size % multiple:
            raise SettingsError(
                f"a micro-batch must hold whole ghost groups of {multiple} rows, got {size:g}; choose a multiple"
            )
        self._size = size
        self.multiple = multiple
        """Rows of a ghost group: a part other than the last is a multiple of it."""
        self._predict = predict
        self._share = share
        self._probe = -(-_PROBE // multiple) * multiple
        self._found: dict[str, float] = {}

    @classmethod
    def whole(cls, *, multiple: int = 1) -> Split:
        """No split; what measures noise, or deals a batch out to devices, cuts it into whole groups of `multiple`."""
        return cls(size=math.inf, multiple=multiple, predict=False, share=1.0)

    @classmethod
    def fixed(cls, size: int, *, multiple: int = 1) -> Split:
        """Parts of at most `size` rows, each but the last a multiple of `multiple`, a ghost group.

        Raises:
            SettingsError: `size` is below 1 or not a multiple of `multiple`.
        """
        return cls(size=size, multiple=multiple, predict=False, share=1.0)

    @classmethod
    def auto(cls, *, multiple: int = 1, share: float = _SHARE) -> Split:
        """Parts as large as fit into `share` of the free memory, and half of that whenever memory runs out.

        Raises:
            SettingsError: `multiple` is below 1 or `share` is not in (0, 1].
        """
        return cls(size=math.inf, multiple=multiple, predict=True, share=share)

    @property
    def is_whole(self) -> bool:
        """Whether every batch stays whole, so that nothing needs to be cut."""
        return not self._predict and math.isinf(self._size)

    def run(
        self, batch: MiniBatch, backward: Callable[[MiniBatch], T], module: nn.Module, *, most: float = math.inf
    ) -> list[T]:
        """What `backward` gives for each part of `batch`, in order.

        Gradients of `module` must be clear before. `auto` may call `backward` more often than there are parts: to
        predict, and again after memory ran out. Nothing remains of those calls: gradients are cleared, torch's
        generators and the module's buffers wound back.

        Args:
            batch: at least one row.
            backward: forward and backward of one part, adding to the gradients of `module`.
            module: whose parameters and buffers `backward` touches; it lies on one device.
            most: rows in a part at most, for this batch only; a ghost group stays whole all the same.

        Raises:
            OutOfMemory: the smallest part does not fit.
        """
        if not self._predict:
            return [backward(part) for part in parts(batch, min(self._size, most), multiple=self.multiple)]
        form = _form(batch)
        before = _Before(module)
        if form not in self._found and len(batch) > 2 * self._probe:
            self._found[form] = self._predicted(batch, backward, module, before)
        while True:
            size = min(self._found.get(form, math.inf), most)
            outcome = _attempt(list(parts(batch, size, multiple=self.multiple)), backward)
            if not isinstance(outcome, str):
                return outcome
            # Only here, outside the handler, has the traceback let go of the tensors of the part that failed.
            before.restore()
            _release(before.device)
            self._found[form] = self._halved(min(size, len(batch)), outcome)

    def state_dict(self) -> dict[str, Any]:
        """Rows in a part, by form of row; "inf" for all."""
        return {"sizes": {form: size if math.isfinite(size) else "inf" for form, size in self._found.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._found = {form: math.inf if size == "inf" else int(size) for form, size in state["sizes"].items()}

    def _halved(self, size: float, reason: str) -> float:
        if size <= self.multiple:
            raise OutOfMemory(
                f"a micro-batch of {size:g} rows must fit into memory, it did not ({reason}); use checkpointed blocks, "
                "bf16 or a smaller model"
            )
        return max(1, int(size) // 2 // self.multiple) * self.multiple

    def _predicted(
        self, batch: MiniBatch, backward: Callable[[MiniBatch], T], module: nn.Module, before: _Before
    ) -> float:
        """Rows that fit, from what two small parts keep for backward; activations are affine in the rows."""
        kept = []
        for rows in (self._probe, 2 * self._probe):
            with saved_bytes(module) as count:
                failure = _attempt([batch.rows(0, rows)], backward)
            before.restore()
            if isinstance(failure, str):
                _release(before.device)
                return self._halved(rows, failure)
            kept.append(count[0])
        slope = (kept[1] - kept[0]) / self._probe
        fixed = kept[0] - slope * self._probe
        gradients = sum(each.numel() * each.element_size() for each in module.parameters() if each.requires_grad)
        room = self._share * free_bytes(before.device) - gradients - fixed
        if slope <= 0:
            return math.inf
        return max(1, int(room / slope) // self.multiple) * self.multiple


def parts(batch: MiniBatch, size: float, *, multiple: int = 1) -> Iterator[MiniBatch]:
    """Consecutive parts of at most `size` rows, as views: whole groups of `multiple`, and as level as these allow."""
    rows = len(batch)
    if not math.isinf(size):
        size = max(multiple, int(size) // multiple * multiple)
    if rows <= size:
        yield batch
        return
    count, groups = math.ceil(rows / size), -(-rows // multiple)
    edges = [groups * part // count * multiple for part in range(count + 1)]
    for start, stop in pairwise(edges):
        yield batch.rows(start, min(stop, rows))


@contextmanager
def saved_bytes(module: nn.Module) -> Iterator[list[int]]:
    """Count what autograd keeps for backward, in bytes, as the one element of the list given.

    Parameters and buffers of `module` are there anyway and do not count; a storage kept twice counts once.
    """
    seen = {each.untyped_storage().data_ptr() for each in (*module.parameters(), *module.buffers())}
    count = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            count[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield count


class _Before:
    """What a batch found: torch's generators and the module's buffers."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        first = next(module.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device
        self._random = torch.get_rng_state()
        self._random_cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self._buffers = [buffer.detach().clone() for buffer in module.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        torch.set_rng_state(self._random)
        if self._random_cuda is not None:
            torch.cuda.set_rng_state(self._random_cuda, self.device)
        for buffer, kept in zip(self._module.buffers(), self._buffers, strict=True):
            buffer.copy_(kept)
        for parameter in self._module.parameters():
            parameter.grad = None


def _attempt(wanted: list[MiniBatch], backward: Callable[[MiniBatch], T]) -> list[T] | str:
    """Outcomes of all parts, or the first line of how memory ran out."""
    try:
        return [backward(part) for part in wanted]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return (str(error) or type(error).__name__).partition("\n")[0]


def _release(device: torch.device) -> None:
    """Give back what a failed part held, reference cycles included."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _form(batch: MiniBatch) -> str:
    """Name, dtype and shape of a row's columns, as one text."""
    return ", ".join(
        f"{name}:{getattr(array.dtype, 'name', array.dtype)}{list(array.shape[1:])}"  # torch's dtypes are their name
        for name, array in sorted(batch.columns.items())
    )
