"""A client of two devices, as `fedmb client` runs it for each message: ranks on loopback, started by torchrun."""

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedmb.errors import FedmbError, SettingsError
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import train
from fedmb.federation.wire import Instruction
from fedmb.ingest.codec import codec_headers
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.launch.device_ranks import learn
from fedmb.ledger import Position
from fedmb.tasks.digits import Digits
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

TOLD = Training.plain(batch_size=24, steps=4, learning_rate=0.5, momentum=0.9, noise_every=2)


def settings(**told):
    return ClientSettings(**{"name": "ward", "source": "table:task?share=0&of=4", "device": "cpu", **told})


def instruction(**told):
    arrays = initial_arrays(Digits(), 0)
    return Instruction(arrays, **{"base_version": 3, "positions": {}, "seed": 5, "training": TOLD.model_dump(), **told})


def test_two_devices_learn_what_one_learns_and_stand_where_it_stands():
    one = train(settings(), instruction())
    two = learn(settings(devices=2), instruction())

    assert all(np.allclose(two.arrays[name], one.arrays[name], atol=1e-6) for name in one.arrays)
    assert (two.weight, two.rows, two.base_version) == (one.weight, one.rows, 3)
    assert two.positions["ward"]["source"] == one.positions["ward"]["source"]
    assert two.sums["loss"] == pytest.approx(one.sums["loss"], rel=1e-5)
    assert two.sums["trace_units"] == pytest.approx(one.sums["trace_units"], rel=1e-3)


def test_rows_of_a_stream_are_learnt_once_by_two_devices(tmp_path):
    rows = {name: array[:96] for name, array in Digits().train_rows().items()}
    log = FileLog.open(tmp_path / "log", id="site", fsync=FsyncPolicy.never(), create=True)
    codec = PackedCodec(Digits.schema)
    with closing(log.writer("rows", 0)) as writer:
        for start in range(0, 96, 8):
            part = {name: array[start : start + 8] for name, array in rows.items()}
            writer.append(codec.encode(part), codec_headers(codec))
    told = settings(
        devices=2, source=f"file:{tmp_path}/log?topic=rows", state=tmp_path / "state", replay={"share": 0.25}
    )

    update = learn(told, instruction())

    (partition,) = update.spans
    assert update.rows == {"stream": 78, "replay": 18}
    assert update.spans[partition].stop == Position(9, 6)
    assert update.positions["ward"]["source"]["appended"] == 78


def test_what_a_rank_fails_of_is_what_the_client_says():
    with pytest.raises(SettingsError, match="0 <= share < of"):
        learn(settings(devices=2, source="table:task?share=9&of=4"), instruction())


class Leaving(Digits):
    """A named double: its model ends the process that builds it, as a driver's fault or the kernel does."""

    def build_model(self):
        os._exit(7)


def test_a_device_that_is_gone_ends_the_round_with_a_sentence(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    with pytest.raises(FedmbError, match="until rank 0 has its update, got exit code 1"):
        learn(settings(devices=2, task="test_device_ranks:Leaving"), instruction())


def test_one_of_several_devices_cannot_be_asked_for():
    with pytest.raises(ValueError, match="devices 2 and device cuda:1"):
        settings(devices=2, device="cuda:1")
