"""Several devices in one client: processes that torchrun started, and that step as one.

    with joined_ranks(device) as ranks:
        ranks.align(model)                               # all start from rank 0's parameters and buffers
        batch = ranks.dealt(source.take(64) if ranks.is_first else None)
        total = units of the whole batch                 # the same on all ranks
        backward of losses(ranks.shard(batch)) with units / total
        ranks.add_up(parameters)                         # gradients of all ranks: the gradient of the batch
        guard, optimizer.step()                          # the same numbers, so the same step, on all ranks

Sums of gradients travel, never means (invariants I2 and I5), so shards may be unequal and even empty. With one process
every call is free. gloo connects CPUs, NCCL GPUs.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import SettingsError
from fedmb.training.norm import BATCH_NORMS, FrozenNorm, GhostNorm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray


class Ranks:
    """This process among the `count` of its client.

    Args:
        index: number of this process, from 0.
        count: processes of the client.
        device: where this process trains.
    """

    def __init__(self, index: int = 0, count: int = 1, *, device: torch.device | None = None) -> None:
        self.index = index
        self.count = count
        self.device = device or torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for the client: it owns the source and talks to the server."""
        return self.index == 0

    def shard(self, batch: MiniBatch, *, multiple: int = 1) -> MiniBatch:
        """This rank's rows of a batch that all ranks hold: consecutive, level, in whole ghost groups of `multiple`.

        With fewer groups than ranks the last ranks get no row; they still take part in `add_up`.
        """
        if self.count == 1:
            return batch
        groups = -(-len(batch) // multiple)
        start, stop = (groups * edge // self.count * multiple for edge in (self.index, self.index + 1))
        return batch.rows(start, min(stop, len(batch)))

    def align(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0.

        Raises:
            SettingsError: the model's batch norm would see one rank's rows only.
        """
        if self.count == 1:
            return
        for layer in module.modules():
            if isinstance(layer, BATCH_NORMS) and not isinstance(layer, GhostNorm | FrozenNorm | nn.SyncBatchNorm):
                raise SettingsError(
                    f"on several ranks a norm layer must not depend on the shard, got {layer}; use ghost_norm, "
                    "group_norm or nn.SyncBatchNorm"
                )
        for each in (*module.parameters(), *module.buffers()):
            distributed.broadcast(each.data, src=0)

    def add_up(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over ranks; a missing one counts as zero. One message for each dtype."""
        if self.count == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                by_dtype.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            self._reduce(gradients)

    def agree(self, module: nn.Module) -> None:
        """Replace each floating buffer by its mean over ranks and take rank 0's counters; ranks then hold one model.

        Each rank's running statistics have seen its own rows only: their mean has seen all.
        """
        if self.count == 1:
            return
        floating = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        for buffer in module.buffers():
            if not buffer.is_floating_point():
                distributed.broadcast(buffer, src=0)
        for dtype in {buffer.dtype for buffer in floating}:
            alike = [buffer for buffer in floating if buffer.dtype == dtype]
            self._reduce(alike)
            torch._foreach_div_(alike, self.count)

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over ranks, in float64, by name; every rank gives the same names."""
        if self.count == 1:
            return dict(sums)
        names = sorted(sums)
        dtype = torch.float64
        values = torch.tensor([sums[name] for name in names], dtype=dtype, device=self.device)
        distributed.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def told(self, message: Any = None) -> Any:  # JSON values
        """Rank 0's `message`, a JSON value, on every rank; the others' is ignored. It travels as text, not pickled."""
        if self.count == 1:
            return message
        text = np.frombuffer(json.dumps(message).encode() if self.is_first else b"", np.uint8)
        length = torch.tensor([len(text)], dtype=torch.int64, device=self.device)
        distributed.broadcast(length, src=0)
        return json.loads(self._spread(text, int(length)).tobytes())

    def dealt(self, batch: MiniBatch | None) -> MiniBatch:
        """Rank 0's `batch` on every rank, without span and origins on the others: one source serves all devices.

        Raises:
            SettingsError: rank 0 has none, or another rank brings one.
        """
        if (batch is not None) != self.is_first:
            raise SettingsError(f"rank 0 and no other brings the batch, rank {self.index} broke it; see is_first")
        if self.count == 1 and batch is not None:
            return batch
        arrays = {} if batch is None else _arrays(batch)
        forms = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
        forms, expected = self.told((forms, batch.expected if batch is not None else None))
        received = {}
        for name, (dtype, shape) in forms.items():
            own = arrays.get(name, np.empty(0, dtype))
            count = int(np.prod(shape)) * np.dtype(dtype).itemsize
            data = self._spread(np.ascontiguousarray(own).reshape(-1).view(np.uint8), count)
            received[name] = data.view(dtype).reshape(shape)
        if batch is not None:
            return batch
        mask, units = received.pop("mask", None), received.pop("units", None)
        columns = {name.removeprefix("column "): array for name, array in received.items()}
        return MiniBatch(columns, mask=mask, units=units, expected=expected)

    def _spread(self, data: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
        """Rank 0's `count` bytes on every rank."""
        if count == 0:
            return np.empty(0, np.uint8)
        message = torch.from_numpy(data.copy()) if self.is_first else torch.empty(count, dtype=torch.uint8)
        message = message.to(self.device)
        distributed.broadcast(message, src=0)
        received: NDArray[np.uint8] = message.cpu().numpy()
        return received

    def _reduce(self, tensors: list[Tensor]) -> None:
        """Sum `tensors`, all of one dtype, over ranks in one message and in place."""
        with torch.no_grad():
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            distributed.all_reduce(flat)
            sums = torch.split(flat, [tensor.numel() for tensor in tensors])
            shaped = [part.view(tensor.shape) for part, tensor in zip(sums, tensors, strict=True)]
            torch._foreach_copy_(tensors, shaped)


@contextmanager
def joined_ranks(device: torch.device | None = None) -> Iterator[Ranks]:
    """The ranks that torchrun started, connected; a single rank when the process was started otherwise.

    Raises:
        SettingsError: torchrun's environment is incomplete.
    """
    device = device or torch.device("cpu")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(device=device)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SettingsError(f"WORLD_SIZE={count} needs {', '.join(missing)} too; start the process by torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), count, device=device)
        # Together: gloo's threads abort a process whose peer leaves while they still talk to it.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def _arrays(batch: MiniBatch) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {f"column {name}": array for name, array in batch.columns.items()}
    if batch.mask is not None:
        arrays["mask"] = batch.mask
    if batch.units is not None:
        arrays["units"] = batch.units
    return arrays
