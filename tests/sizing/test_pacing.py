import subprocess
import sys
from pathlib import Path

import pytest

from fedmb.errors import SettingsError
from fedmb.sizing.learning_rate_section import LearningRate
from fedmb.sizing.pacing import Values, pacing
from fedmb.sizing.policy import Progress
from fedmb.sizing.sizing_section import Sizing
from fedmb.sizing.stats import Stats

ROOT = Path(__file__).resolve().parents[2]
ADAM = Values(optimizer="adamw", betas=(0.9, 0.999), weight_decay=0.01)


def test_the_defaults_are_one_size_and_one_rate():
    plain = pacing(Sizing(), LearningRate(rate=0.3))

    assert plain.size(Progress(samples=10**6), Stats()) == 32
    assert plain.values(10**6, 7, Stats()) == {"learning_rate": 0.3}
    assert not plain.reads


def test_rate_schedule_and_scaling_multiply():
    rate = LearningRate(rate=0.2, scaling="linear", base_size=32, warmup_samples=100, decay="steps", drops={1000: 0.1})
    paced = pacing(Sizing(size=64), rate)

    assert paced.values(0, 64, Stats())["learning_rate"] == pytest.approx(0.2 * 0.1 * 2)
    assert paced.values(1000, 16, Stats())["learning_rate"] == pytest.approx(0.2 * 0.1 * 0.5)


def test_only_what_is_followed_is_changed():
    rate = LearningRate(scaling="sqrt", base_size=32, follow=("momentum", "weight_decay"))

    sgd = pacing(Sizing(), rate, Values(momentum=0.9, weight_decay=0.01)).values(0, 64, Stats())
    adam = pacing(Sizing(), rate, ADAM).values(0, 64, Stats())

    assert sgd.keys() == {"learning_rate", "momentum", "weight_decay"}
    assert sgd["momentum"] == pytest.approx(0.81)
    assert adam.keys() == {"learning_rate", "beta1", "beta2", "weight_decay"}
    assert adam["beta2"] == pytest.approx(0.998001)
    assert adam["weight_decay"] == pytest.approx(0.01 * 2 / 2**0.5)


def test_batch_norm_can_follow():
    rate = LearningRate(base_size=32, follow=("norm_momentum",))

    assert pacing(Sizing(), rate, Values(norm_momentum=0.1)).values(0, 64, Stats())["norm_momentum"] == pytest.approx(
        0.19
    )


def test_a_decay_moves_from_the_rate_to_the_size():
    rate = LearningRate(rate=0.2, decay="steps", drops={1000: 0.25}, warmup_samples=100)
    paced = pacing(Sizing(kind="instead_of_decay", max_size=512), rate)

    assert paced.size(Progress(samples=1000), Stats()) == 128
    assert paced.values(1000, 128, Stats())["learning_rate"] == 0.2
    assert paced.values(0, 32, Stats())["learning_rate"] == pytest.approx(0.02)


def test_legw_scales_and_stretches_by_the_size_of_the_run():
    rate = LearningRate(rate=0.1, scaling="legw", base_size=16, warmup_samples=100)
    paced = pacing(Sizing(size=64), rate)

    assert [paced.values(s, 64, Stats())["learning_rate"] for s in (0, 200, 400)] == pytest.approx([0, 0.1, 0.2])


def test_it_says_what_has_to_be_measured():
    paced = pacing(Sizing(kind="goodput", max_size=512), LearningRate(scaling="gain", base_size=32))

    assert paced.reads == {"noise", "seconds"}


@pytest.mark.parametrize(
    ("sizing", "rate", "values", "rule", "key"),
    [
        ({"kind": "cabs", "max_size": 64}, {}, ADAM, "plain SGD, got adamw", "sizing.kind"),
        ({"kind": "cabs", "max_size": 64}, {}, Values(momentum=0.9), "momentum 0.9", "sizing.kind"),
        (
            {"kind": "cabs", "max_size": 64},
            {"scaling": "linear", "base_size": 32},
            Values(),
            "must not follow the size",
            "learning_rate.scaling",
        ),
        (
            {"kind": "instead_of_decay", "max_size": 64},
            {"scaling": "linear", "base_size": 32, "decay": "steps", "drops": {5: 0.1}},
            Values(),
            "must not follow the size",
            "learning_rate.scaling",
        ),
        ({"kind": "instead_of_decay", "max_size": 64}, {}, Values(), "got decay none", "learning_rate.decay"),
        (
            {"kind": "goodput", "max_size": 64},
            {"scaling": "legw", "base_size": 32, "warmup_samples": 10},
            Values(),
            "one size for the whole run",
            "learning_rate.scaling",
        ),
        ({}, {"scaling": "adam_gain", "base_size": 32}, Values(), "got sgd", "learning_rate.scaling"),
        ({}, {"follow": ("norm_momentum",), "base_size": 32}, Values(), "model without one", "learning_rate.follow"),
    ],
)
def test_techniques_that_undo_each_other_are_refused(sizing, rate, values, rule, key):
    with pytest.raises(SettingsError, match=rule) as refused:
        pacing(Sizing(**sizing), LearningRate(**rate), values)

    assert refused.value.key == key
    assert "; " in str(refused.value)


@pytest.mark.parametrize("guide", ["batch-size.md", "learning-rate.md"])
def test_what_a_guide_shows_is_what_happens(guide, tmp_path):
    # The page's snippets are one program; each is followed by what it prints.
    parts = (ROOT / "docs" / "guide" / guide).read_text().split("```")
    fences = [part.partition("\n")[::2] for part in parts[1::2]]
    program = "".join(body for language, body in fences if language == "python")
    printed = "".join(body for language, body in fences if not language)
    command = [sys.executable, "-c", program]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert result.returncode == 0, result.stderr
    assert printed
    assert result.stdout == printed
