"""Two real ranks hear the alarm that one process hears; this file is also what torchrun starts."""

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
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay
from fedmb.sizing.page_hinkley import PageHinkley
from fedmb.telemetry.prequential import Prequential
from fedmb.training.distributed import Ranks, joined_ranks
from fedmb.training.drift import Drift, DriftResponse
from fedmb.training.fresh_watch import FreshWatch
from fedmb.training.step import TrainStep
from fedmb.training.stretch import Budget
from fedmb.training.trainer import Trainer

DRIFT = Drift(detector="page-hinkley", rewarm=2.0, shrink=0.5, shrink_samples=200, replay_share=0.125)


class Line:
    schema = {"x": Column("float32", (3,)), "y": Column("float32")}

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {"hit": ((outputs - rows["y"]).abs() < 0.5).float()}


class Numbers:
    """A stream whose rows, made from their numbers, change their meaning with number 600; every fifth is masked."""

    schema, examples_per_epoch = Line.schema, math.inf

    def __init__(self):
        self.next = 0

    def take(self, size):
        numbers = np.arange(self.next, self.next + size)
        self.next += size
        x = np.random.default_rng(0).standard_normal((3000, 3)).astype(np.float32)[numbers]
        y = (x.sum(1) * np.where(numbers < 600, 1, -1)).astype(np.float32)
        return MiniBatch({"x": x, "y": y}, mask=numbers % 5 > 0, origins={"stream": size})

    def position(self):
        return {"next": self.next}

    def seek(self, position):
        self.next = position.get("next", 0)

    def close(self):
        pass


def trained(ranks):
    """What a client learnt and told after 80 batches, half-sized ones after the alarm among them."""
    torch.manual_seed(0)
    ring = Ring.in_memory(Line.schema, 600)
    source = Blend(Numbers(), UniformReplay(ring, 256, seed=1, client="a"), 0.5)
    model = nn.Linear(3, 1)
    step = TrainStep(Line(), model, torch.optim.SGD(model.parameters(), lr=0.02), ranks=ranks)
    watch = FreshWatch(
        source,
        prequential=Prequential(window=100),
        detector=PageHinkley(threshold=20.0, min_rows=64),
        response=DriftResponse(DRIFT),
        every=4,
        client="a",
        ranks=ranks,
    )
    trainer = Trainer(step, source, size=16, watch=watch)
    learnt = trainer.run(Budget(samples=16 * 80))
    return {
        "weights": model.weight[0].tolist(),
        "rows": trainer.progress.samples,
        "steps": learnt.steps,
        "sums": watch.sums(),
        "state": trainer.clock_state(),
        "share": source.replay_share.in_force if ranks.is_first else None,
    }


def main(folder):
    torch.set_num_threads(1)
    with joined_ranks() as ranks:
        (Path(folder) / f"{ranks.index}.json").write_text(json.dumps(trained(ranks)))
        torch.distributed.barrier()
        os._exit(0)  # see test_distributed.py


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", __file__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_hear_and_answer_as_one_process_does(two_ranks):
    one, (first, second) = trained(Ranks()), two_ranks

    assert one["sums"]["alarms"] == 1
    assert (first["rows"], first["steps"], first["share"]) == (one["rows"], one["steps"], one["share"])
    assert first["sums"] == pytest.approx(one["sums"], rel=1e-5)
    assert first["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert {name: first[name] for name in ("weights", "sums", "state")} == {
        name: second[name] for name in ("weights", "sums", "state")
    }


if __name__ == "__main__":
    main(sys.argv[1])
