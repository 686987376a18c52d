import resource

import pytest
import torch

from fedmb.training.free_memory import free_bytes, is_out_of_memory

CPU = torch.device("cpu")
GIB = 1 << 30


def machine(root, *, available=64 * GIB, cgroup="0::/app", files=()):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:  99 kB\nMemAvailable:   {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup + "\n")
    (root / "proc/self/statm").write_text("1000 1 1 1 0 1 0\n")
    for path, text in dict(files).items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def group(path, limit, usage, cache=0):
    return {f"{path}memory.max": limit, f"{path}memory.current": usage, f"{path}memory.stat": f"inactive_file {cache}"}


def group_v1(path, limit, usage, cache=0):
    return {
        f"memory/{path}memory.limit_in_bytes": limit,
        f"memory/{path}memory.usage_in_bytes": usage,
        f"memory/{path}memory.stat": f"total_inactive_file {cache}",
    }


def test_without_groups_it_is_what_the_kernel_calls_available(tmp_path):
    assert free_bytes(CPU, root=machine(tmp_path)) == 64 * GIB


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("0::/app", group("app/", 8 * GIB, 3 * GIB)),
        ("0::/app", group("", 8 * GIB, 3 * GIB)),  # as inside a container
        ("0::/top/app", group("top/", 8 * GIB, 3 * GIB) | group("top/app/", "max", GIB)),
        ("0::/app", group("app/", 8 * GIB, 7 * GIB, cache=4 * GIB)),
        ("4:cpu,memory:/app\n0::/", group_v1("app/", 8 * GIB, 3 * GIB)),
        ("4:memory:/app", group_v1("app/", 8 * GIB, 3 * GIB) | group_v1("", 9223372036854771712, 9 * GIB)),
    ],
)
def test_a_control_group_leaves_its_limit_less_its_usage(tmp_path, cgroup, files):
    assert free_bytes(CPU, root=machine(tmp_path, cgroup=cgroup, files=files)) == 5 * GIB


def test_the_least_of_all_limits_holds_and_never_less_than_nothing(tmp_path):
    assert free_bytes(CPU, root=machine(tmp_path / "a", available=GIB, files=group("app/", 8 * GIB, GIB))) == GIB
    assert free_bytes(CPU, root=machine(tmp_path / "b", files=group("app/", GIB, 2 * GIB))) == 0


def test_an_address_space_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB, GIB))

    assert free_bytes(CPU, root=machine(tmp_path)) == GIB - 1000 * resource.getpagesize()


def test_this_machine_has_memory():
    assert 1 << 20 < free_bytes(CPU) < 1 << 50


def test_running_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
