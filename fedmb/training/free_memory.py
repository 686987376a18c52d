"""How many bytes may still be allocated on a device, and what running out of them looks like."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LIMIT = 1 << 60  # cgroup v1 writes "unlimited" as a page-rounded 2**63
_CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: on a GPU, in torch's CPU allocator or in Python.

    On the CPU it is raised under an address-space limit only; without one Linux overcommits and kills the process.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
    )


def free_bytes(device: torch.device, *, root: Path = Path("/")) -> int:
    """Bytes that this process may still allocate on `device`.

    On a GPU: what no process uses, and what torch's allocator holds without using it. On the CPU the least of: what
    the kernel calls available, what the control groups leave, what the address-space limit leaves.

    Args:
        device: where memory is wanted.
        root: where `proc` and `sys` are found.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, min(_available(root), *_left_by_groups(root), _left_by_rlimit(root)))


def _available(root: Path) -> int:
    fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _left_by_rlimit(root: Path) -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return _NO_LIMIT
    pages = int((root / "proc/self/statm").read_text().split()[0])
    return limit - pages * resource.getpagesize()


def _left_by_groups(root: Path) -> Iterator[int]:
    """Bytes left by this process's control group and each group above it; any of them may hold the limit."""
    yield _NO_LIMIT
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names, mount = ("memory.max", "memory.current", "inactive_file"), root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = mount / path.lstrip("/")
        # A container sees its own group mounted at the top, whatever path /proc tells.
        for folder in (group, *group.parents):
            if folder == mount or mount in folder.parents:
                yield _left(folder, *names)


def _left(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int:
    """Limit less usage of one group; cached file pages count as free, since the kernel drops them on demand."""
    try:
        limit, usage = (folder / limit_name).read_text().strip(), int((folder / usage_name).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # no such group in this mount, or no limit at its top
        return _NO_LIMIT
    if limit == "max" or int(limit) >= _NO_LIMIT:
        return _NO_LIMIT
    return int(limit) - usage + int(statistics.get(cache_name, 0))
