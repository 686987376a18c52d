"""Two real ranks, started by torchrun on the loopback, against one process; this file is also what torchrun starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import SettingsError
from fedmb.training.distributed import Ranks, joined_ranks
from fedmb.training.guard import Clip, Finite, Verdict
from fedmb.training.norm import group_norm
from fedmb.training.precision import Precision

SIZES = (16, 15, 7, 1, 16, 3)  # unequal shards, and a batch that leaves a rank without a row


def batches():
    random = np.random.default_rng(5)
    for step, size in enumerate(SIZES):
        x = random.standard_normal((size, 8)).astype(np.float32)
        if step == 4:
            x[0] = np.nan  # one rank sees it, all must skip
        units = random.uniform(0.1, 3, size).astype(np.float32) if step % 2 else None
        mask = x[:, 1] < 1
        mask[0] = True
        yield MiniBatch({"x": x, "label": random.integers(0, 3, size)}, units=units, mask=mask)


def build():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3), nn.Linear(3, 3))
    model[4].requires_grad_(requires_grad=False)
    return group_norm(model, 4)


def train(ranks, precision_name):
    """Six steps as a client with several devices takes them; answers parameters and skipped steps."""
    torch.manual_seed(ranks.index)  # every rank starts elsewhere, and is put right
    model = build()
    ranks.align(model)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.01)
    guard, precision, skipped = Clip(1.0) & Finite(), Precision(precision_name, initial_scale=256.0), 0
    source = batches()
    for _ in SIZES:
        batch = ranks.dealt(next(source) if ranks.is_first else None)
        total = float(batch.effective_units().sum(dtype="float64"))
        part = ranks.shard(batch)
        optimizer.zero_grad()
        if len(part):
            outputs = model(torch.from_numpy(part.columns["x"]))
            label = torch.from_numpy(part.columns["label"])
            losses = nn.functional.cross_entropy(outputs, label, reduction="none")
            torch.autograd.backward(losses, precision.scaled(torch.from_numpy(part.effective_units()) / total))
        ranks.add_up(model.parameters())  # before unscaling, so that every rank sees every overflow
        precision.unscale(optimizer)
        if guard(model.parameters()).verdict is Verdict.OK and precision.step(optimizer):
            continue
        precision.skip()
        skipped += 1
    return model, skipped


def ranks_speak(ranks):
    """Answers what the smaller calls gave on this rank."""
    buffers = nn.BatchNorm1d(2).double()
    buffers.running_mean.fill_(float(ranks.index))
    buffers.num_batches_tracked.fill_(10 + ranks.index)
    ranks.agree(buffers)
    try:
        ranks.align(buffers)
        refused = ""
    except SettingsError as error:
        refused = str(error)
    batch = MiniBatch({"x": np.arange(12).reshape(6, 2)}, span={}, origins={"private": 6})
    dealt = ranks.dealt(batch if ranks.is_first else None)
    return {
        "told": ranks.told({"round": 7} if ranks.is_first else None),
        "nothing": ranks.told(),
        "total": ranks.total({"loss": 1.5 + ranks.index, "units": 2.0}),
        "mean": buffers.running_mean.tolist(),
        "tracked": buffers.num_batches_tracked.item(),
        "refused": refused,
        "shard": ranks.shard(dealt, multiple=4).columns["x"][:, 0].tolist(),
        "same": batch.columns["x"].tobytes() == dealt.columns["x"].tobytes(),
    }


def main(folder):
    torch.set_num_threads(1)
    with joined_ranks() as ranks:
        models = {name: train(ranks, name) for name in ("fp32", "fp16")}
        state = {name: (model.state_dict(), skipped) for name, (model, skipped) in models.items()}
        torch.save(state, Path(folder) / f"rank{ranks.index}.pt")
        (Path(folder) / f"rank{ranks.index}.json").write_text(json.dumps(ranks_speak(ranks)))
        # Leave without tearing down: under load torch 2.13's gloo sometimes aborts a rank ("terminate called without
        # an active exception") after its work is done and written, which is not what this test is about.
        torch.distributed.barrier()
        os._exit(0)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two ranks wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", __file__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    root = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] = str(root)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    states = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return states, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_two_ranks_learn_what_one_device_learns(two_ranks, precision):
    (first, _), _ = two_ranks
    state, skipped = first[precision]
    model, expected_skips = train(Ranks(), precision)
    worst = max((state[name] - value).abs().max().item() for name, value in model.state_dict().items())
    print(f"{precision}: two ranks differ from one device by at most {worst:.1e}")

    assert worst < 1e-6
    assert skipped == expected_skips == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_both_ranks_hold_the_same_bits(two_ranks, precision):
    states, _ = two_ranks
    (one, _), (other, _) = (state[precision] for state in states)

    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_ranks_tell_add_up_and_agree(two_ranks):
    _, (first, second) = two_ranks
    for said in (first, second):
        assert said["told"] == {"round": 7}
        assert said["nothing"] is None
        assert said["total"] == {"loss": 4.0, "units": 4.0}
        assert said["mean"] == [0.5, 0.5]
        assert said["tracked"] == 10
        assert said["same"] is True
        assert "must not depend on the shard" in said["refused"]

    assert (first["shard"], second["shard"]) == ([0, 2, 4, 6], [8, 10])


def test_one_process_needs_no_network():
    batch = MiniBatch({"x": np.arange(3)})
    with joined_ranks() as ranks:
        assert (ranks.count, ranks.is_first) == (1, True)
        assert ranks.shard(batch) is batch
        assert ranks.dealt(batch) is batch
        assert ranks.told([1]) == [1]
        assert ranks.total({"units": 2.0}) == {"units": 2.0}
        ranks.align(nn.BatchNorm1d(2))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("multiple", [1, 4])
def test_shards_are_all_rows_in_order_and_whole_groups(count, multiple):
    batch = MiniBatch({"x": np.arange(19)})
    shards = [Ranks(index, count).shard(batch, multiple=multiple).columns["x"] for index in range(count)]

    assert np.concatenate(shards).tolist() == list(range(19))
    assert all(len(shard) % multiple == 0 for shard in shards if len(shard) and shard[-1] != 18)


def test_only_rank_0_brings_a_batch():
    with pytest.raises(SettingsError, match="rank 0 and no other"):
        Ranks(0, 1).dealt(None)


def test_an_incomplete_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(SettingsError, match="needs RANK, MASTER_ADDR, MASTER_PORT"), joined_ranks():
        pass


if __name__ == "__main__":
    main(sys.argv[1])
