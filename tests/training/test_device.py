import os
import subprocess
import sys

import pytest
import torch

from fedmb.errors import SettingsError
from fedmb.training.device import computing, threads_for, training_device


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that this machine has so many GPUs."""

    def pretend(count, local_rank=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        if local_rank is not None:
            monkeypatch.setenv("LOCAL_RANK", str(local_rank))

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return pretend


def test_auto_takes_a_gpu_where_there_is_one(gpus):
    gpus(0)
    assert training_device() == torch.device("cpu")
    gpus(2)

    assert training_device("auto") == torch.device("cuda", 0)
    assert training_device("cuda:1") == torch.device("cuda", 1)
    assert training_device("cpu") == torch.device("cpu")


def test_under_torchrun_each_rank_takes_its_own_gpu(gpus):
    gpus(4, local_rank=3)

    assert training_device("auto") == torch.device("cuda", 3)
    assert training_device("cuda") == torch.device("cuda", 3)
    assert training_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "mps", "", "cuda:x"])
def test_unknown_names_are_refused(name):
    with pytest.raises(SettingsError, match="auto, cpu, cuda or cuda:N"):
        training_device(name)


def test_a_device_that_is_not_there_is_refused(gpus):
    gpus(1)

    with pytest.raises(SettingsError, match="needs GPU 1, this machine has 1"):
        training_device("cuda:1")


def test_threads_times_clients_never_exceed_the_cores():
    assert [threads_for(clients, cores=8) for clients in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    assert threads_for(1) == len(os.sched_getaffinity(0))
    with pytest.raises(SettingsError, match="at least 1, got 0"):
        threads_for(0)


def flags():
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("repeatable", [False, True])
def test_threads_and_flags_are_put_back_even_after_an_error(monkeypatch, repeatable):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "set before")
    monkeypatch.setenv("TORCHINDUCTOR_DETERMINISTIC", "set before")
    torch.backends.cudnn.benchmark = True
    before = flags()
    seen = []

    def fail():
        with computing(threads=before[0] + 1, repeatable=repeatable):
            seen.append(flags())
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    after = flags()
    torch.backends.cudnn.benchmark = False

    assert seen == [(before[0] + 1, repeatable or before[1], before[2], not repeatable)]
    assert after == before


def test_no_thread_at_all_is_refused():
    with pytest.raises(SettingsError, match="at least 1, got 0"), computing(threads=0, repeatable=False):
        pass


def test_who_does_not_train_does_not_wait_for_the_compiler_and_it_would_repeat_itself():
    lines = (
        "import sys, torch",
        "from fedmb.training.device import computing",
        "with computing(threads=1, repeatable=True):",
        "    early = 'torch._inductor' in sys.modules",
        "    import torch._inductor.config as compiler",
        "    print(early, compiler.deterministic)",
    )
    told = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)

    assert told.stdout == "False True\n"
