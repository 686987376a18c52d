"""A version leaves its run as plain weights, with the record of what trained it."""

import hashlib
import json

import numpy as np
import pytest
import torch
from numbered_streams import Numbers, first_state, ledger_at
from safetensors.torch import load_file

from fedmb.errors import CorruptCheckpoint, SettingsError
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import Checkpoints, ServerState
from fedmb.federation.versions import RECORD, described, export, kept, listed, shown
from fedmb.telemetry.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    """Versions 3 to 7, the last of which has learnt 70 rows; another process goes on with it."""
    directory = RunDirectory.create(tmp_path / "run", config="", seed=4)
    for version in range(1, 8):
        arrays = {name: array + version for name, array in first_state().arrays.items()}
        learnt = {"meter": {"stream": 10 * version, "replay": version}}
        state = ServerState(version, arrays, ledger_at(meter=10 * version), learnt=learnt, seed=4)
        checkpoint.save(directory.checkpoints, state, Checkpoints(keep=5))
    yield directory.path
    directory.close()


def test_every_kept_version_is_listed_while_the_run_goes_on(run):
    versions = kept(run)
    table = listed(versions)

    assert [one.number for one in versions] == [3, 4, 5, 6, 7]
    assert "meter/rows[0] @ 7" in table.splitlines()[1]
    assert len(table.splitlines()) == 6


def test_the_weights_load_into_the_tasks_model_without_fedmb(run, tmp_path):
    export(run, 5, tmp_path / "out" / "model.safetensors")
    model = Numbers().build_model()

    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))

    assert torch.equal(model.bias.detach(), torch.full((1,), 5.0))


def test_the_record_beside_it_says_what_trained_it(run, tmp_path):
    answered = export(run, None, tmp_path / "model.safetensors", since=4)
    record = json.loads((tmp_path / RECORD).read_text())
    version, path = checkpoint.generations(run / "checkpoints")[-1]

    assert record == answered
    assert (record["version"], record["since"], record["seed"]) == (version, 4, 4) == (7, 4, 4)
    assert record["model_sha256"] == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert record["checkpoint_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["fedmb"] == json.loads((run / "env.json").read_text())["packages"]["fedmb"]
    assert record["rows"]["total"] == {"replay": 3, "stream": 30}
    assert (record["streams"][0]["from"], record["streams"][0]["to"]) == ([10, 0], [17, 2])


def test_exporting_again_gives_the_same_bytes(run, tmp_path):
    export(run, 6, tmp_path / "model.safetensors")
    once = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    export(run, 6, tmp_path / "model.safetensors")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == once


def test_a_record_never_stands_beside_another_model(run, tmp_path):
    export(run, 5, tmp_path / "five.safetensors")

    with pytest.raises(SettingsError, match=r"holds that of five\.safetensors; choose another folder"):
        export(run, 6, tmp_path / "six.safetensors")
    assert not (tmp_path / "six.safetensors").exists()


def test_a_version_that_is_not_kept_is_refused_with_those_that_are(run, tmp_path):
    with pytest.raises(SettingsError, match="keeps, 3, 4, 5, 6, 7, got 2"):
        export(run, 2, tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match="got 1"):
        described(run, 7, since=1)
    with pytest.raises(SettingsError, match="name a run's folder"):
        kept(tmp_path)


def test_a_damaged_version_is_listed_as_such_and_never_exported(run, tmp_path):
    _, path = checkpoint.generations(run / "checkpoints")[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CorruptCheckpoint):
        export(run, 7, tmp_path / "model.safetensors")
    with pytest.raises(CorruptCheckpoint):
        described(run, 7)
    path.write_bytes(whole[:20])

    assert listed(kept(run)).splitlines()[-1].endswith("damaged")
    assert not (tmp_path / "model.safetensors").exists()


def test_what_is_shown_names_rows_and_places(run):
    text = shown(described(run, 7, since=4))

    assert "version     7 of" in text
    assert "3 replay, 30 stream since version 4" in text
    assert "meter/rows[0] 10 to 17+2: 8 offsets" in text
    assert np.char.count(text, "set aside: not known here") == 1
