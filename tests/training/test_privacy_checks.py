"""What does not go with a client's privacy is refused by name."""

import math

import pytest
from private_clients import Records, local, run, table
from small_regression import Curve

from fedmb.batch.mixture import Mixture
from fedmb.errors import SettingsError
from fedmb.training.client_privacy import ClientPrivacy
from fedmb.training.local_update import LocalUpdate
from fedmb.training.privacy_checks import check_alone
from fedmb.training.recipe import Training
from fedmb.training.release_account import FILE


@pytest.mark.parametrize(
    ("told", "training", "sentence"),
    [
        ({}, {"control_variates": True}, "got training.control_variates"),
        ({}, {"overlap_steps": 1}, "got training.overlap_steps 1"),
        ({}, {"noise_every": 2}, "got training.noise_every 2"),
        ({}, {"drift": {"detector": "adwin"}}, "got training.drift.detector adwin"),
        ({}, {"guard": {"skip_non_finite": True}}, "got training.guard.skip_non_finite"),
        ({}, {"guard": {"spike_factor": 3.0}}, "got training.guard.spike_factor 3"),
        ({}, {"precision": "fp16"}, "got training.precision fp16"),
        ({"unit": "example"}, {"precision": "bf16"}, "got training.precision bf16"),
        ({"unit": "example"}, {"micro_size": "auto"}, 'got training.micro_size "auto"'),
        ({"unit": "example"}, {"steps": math.inf, "seconds": 9}, "got no training.steps, samples or epochs"),
    ],
)
def test_training_that_tells_of_rows_is_refused(tmp_path, told, training, sentence):
    with pytest.raises(SettingsError, match=sentence):
        local(tmp_path, training=training, **told)


def test_sizes_that_follow_losses_or_noise_are_refused(tmp_path):
    training = Training(steps=3, sizing={"kind": "cabs", "max_size": 40})

    with pytest.raises(SettingsError, match=r"got training.sizing.kind cabs"):
        LocalUpdate(
            Curve(), table(), training, client="a", seed=0, directory=tmp_path, privacy=ClientPrivacy(clip_norm=1)
        )


def test_rows_that_nobody_can_count_are_refused(tmp_path):
    two = Mixture({"a": table(), "b": table()}, 1.0, seed=0, client="ward")
    with pytest.raises(SettingsError, match="every row of a private client must be counted, got a source that gives"):
        local(tmp_path, two, unit="example")

    with pytest.raises(SettingsError, match=r"must be counted once, got rows of \['replay', 'stream'\]"):
        run(local(tmp_path, Records(origins=("stream", "replay")), unit="example"))
    assert not (tmp_path / FILE).exists()
    run(local(tmp_path, two, unit="update"))


class OfGroup(Records):
    def position(self):
        return {**super().position(), "group": "log/rows"}


class ToldLosses(Records):
    listens = wants_losses = True
    batches = 0

    def hear(self, batch, losses):
        pass


def test_partitions_that_may_go_to_others_and_rows_drawn_by_their_cost_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="or to other clients too"):
        local(tmp_path, OfGroup(), unit="example")
    for unit in ("update", "example"):
        with pytest.raises(SettingsError, match=r"got a memory that is told losses; set replay.memory to newest"):
            local(tmp_path, ToldLosses(), unit=unit)


def test_a_private_client_needs_a_directory():
    with pytest.raises(SettingsError, match="counted in a file, got no directory"):
        local(None)


def test_several_devices_and_labels_that_come_later_are_refused():
    with pytest.raises(SettingsError, match="got 2 devices; set devices to 1"):
        check_alone(ranks=2, has_late_labels=False)
    with pytest.raises(SettingsError, match=r"got labels that come later; leave labels.source out"):
        check_alone(ranks=1, has_late_labels=True)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"unit": "example"}, "unit is read with clip_norm, got none"),
        ({"epsilon": 3.0}, "epsilon is read with clip_norm, got none"),
        ({"clip_norm": math.inf}, "privacy.clip_norm must be finite, got inf"),
        ({"clip_norm": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(told, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClientPrivacy(**told)
