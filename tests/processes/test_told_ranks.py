"""Two real ranks tell a memory the losses that one process tells; this file is also what torchrun starts."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.replay.blend import Blend
from fedmb.replay.loss_memory import LossMemory
from fedmb.replay.ring import Ring
from fedmb.training.distributed import Ranks, joined_ranks
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.trainer import Trainer

STEPS = 20


class Line:
    schema = {"x": Column("float32", (3,)), "y": Column("float32")}

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


class Numbers:
    """A stream of rows made from their numbers, of which every fifth is masked."""

    schema, examples_per_epoch = Line.schema, math.inf

    def __init__(self):
        self.next = 0

    def take(self, size):
        numbers = np.arange(self.next, self.next + size)
        self.next += size
        x = np.random.default_rng(0).standard_normal((3000, 3)).astype(np.float32)[numbers]
        return MiniBatch({"x": x, "y": x.sum(1)}, mask=numbers % 5 > 0, origins={"stream": size})

    def position(self):
        return {"next": self.next}

    def seek(self, position):
        self.next = position.get("next", 0)

    def close(self):
        pass


def trained(ranks):
    """What a client learnt, and the losses that its memory was told; on rank 0 alone there is one."""
    torch.manual_seed(0)
    memory = LossMemory(Ring.in_memory(Line.schema, 400), 200, seed=1, client="a", every=4)
    source = Blend(Numbers(), memory, 0.5) if ranks.is_first else Numbers()
    model = nn.Linear(3, 1)
    step = TrainStep(Line(), model, torch.optim.SGD(model.parameters(), lr=0.02), ranks=ranks)
    trainer = Trainer(step, source, size=13)
    trainer.run(Budget(steps=STEPS))
    trainer.source.position()
    losses = memory._losses[: memory.appended]
    return {"weights": model.weight[0].tolist(), "losses": losses.tolist(), "drawn": memory.drawn.tolist()}


def main(folder):
    torch.set_num_threads(1)
    with joined_ranks() as ranks:
        (Path(folder) / f"{ranks.index}.json").write_text(json.dumps(trained(ranks)))
        torch.distributed.barrier()
        os._exit(0)  # see test_distributed.py


def test_two_ranks_tell_what_one_process_tells(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", __file__, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    one = trained(Ranks())

    assert len(one["losses"]) > 100
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-3, nan_ok=True)
    assert first["drawn"] == one["drawn"]
    assert first["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert second["weights"] == first["weights"]
    assert second["losses"] == []


if __name__ == "__main__":
    main(sys.argv[1])
