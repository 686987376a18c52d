"""Where a client trains, with how many threads, and whether its bits repeat."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def training_device(name: str = "auto") -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one.

    Under torchrun "auto" and "cuda" are the GPU of this process's local rank.

    Raises:
        SettingsError: the name is unknown, or this machine has no such device.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"a device is auto, cpu, cuda or cuda:N, got {name!r}; choose one") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise SettingsError(f"a device is auto, cpu, cuda or cuda:N, got {name!r}; choose one")
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= gpus:
        raise SettingsError(f"{name!r} needs GPU {index}, this machine has {gpus}; choose a smaller number or cpu")
    return torch.device("cuda", index)


def threads_for(clients: int, *, cores: int | None = None) -> int:
    """Threads for each of `clients` that train on this machine at once: cores / clients, at least 1.

    More runnable threads than cores make OpenMP wait at every barrier: measured 20 to 850 times slower.

    Args:
        clients: processes that train at the same time.
        cores: of the machine; None for those that this process may run on.

    Raises:
        SettingsError: `clients` is below 1.
    """
    if clients < 1:
        raise SettingsError(f"clients must be at least 1, got {clients}; count the processes that train at once")
    return max(1, (len(os.sched_getaffinity(0)) if cores is None else cores) // clients)


@contextmanager
def computing(*, threads: int, repeatable: bool) -> Iterator[None]:
    """Compute with `threads` of torch inside, and with the same bits each time if `repeatable`; then as before.

    An operation that has no repeatable form then raises a RuntimeError instead of giving other bits each time.
    cuBLAS and torch.compile read their settings once a process, so those are put into the environment, if absent, and
    stay.

    Raises:
        SettingsError: `threads` is below 1.
    """
    if threads < 1:
        raise SettingsError(f"threads must be at least 1, got {threads}; threads_for(clients) gives a fair share")
    import torch

    before = torch.get_num_threads()
    deterministic = torch.get_deterministic_debug_mode()
    searches = torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    if repeatable:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
        # `use_deterministic_algorithms` does the same, and imports torch.compile for its setting: 1.5 s of each server.
        torch.set_deterministic_debug_mode("error")
        torch.backends.cudnn.benchmark = False  # it times kernels and picks the fastest of that day
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_deterministic_debug_mode(deterministic)
        torch.backends.cudnn.benchmark = searches
