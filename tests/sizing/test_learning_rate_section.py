import pytest
from pydantic import ValidationError

from fedmb.section import Section
from fedmb.settings import load, to_toml
from fedmb.sizing.learning_rate_section import LearningRate

TABLES = [
    {},
    {"scaling": "gain", "base_size": 32, "follow": ("momentum", "weight_decay")},
    {"warmup_samples": 500.0, "warmup_start": 0.125, "decay": "cosine", "decay_samples": 9000.0, "floor": 0.01},
    {"decay": "steps", "drops": {3000: 0.1, 6000: 0.01}},
    {"scaling": "legw", "base_size": 32, "warmup_samples": 500.0},
]


class Whole(Section):
    learning_rate: LearningRate = LearningRate()


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_every_form_survives_its_toml(table, tmp_path):
    whole = Whole(learning_rate=LearningRate(**table))
    (tmp_path / "whole.toml").write_text(to_toml(whole))

    assert load(Whole, file=tmp_path / "whole.toml") == whole


def test_schedules_are_those_that_were_named():
    rate = LearningRate(warmup_samples=100, warmup_start=0.5, decay="steps", drops={200: 0.1})

    assert [rate.warmup_schedule()(samples) for samples in (0, 50, 100)] == [0.5, 0.75, 1.0]
    assert [rate.decay_schedule()(samples) for samples in (0, 199, 200)] == [1.0, 1.0, 0.1]
    assert LearningRate(decay="cosine", decay_samples=100, floor=0.2).decay_schedule()(50) == pytest.approx(0.6)
    assert LearningRate().warmup_schedule()(0) == LearningRate().decay_schedule()(0) == 1


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"scaling": "linear"}, "need base_size, got nothing; set the size"),
        ({"follow": ("momentum",)}, "need base_size"),
        ({"base_size": 32}, "base_size = 32 must be left out"),
        ({"scaling": "legw", "base_size": 32}, "stretches a warmup, got warmup_samples = 0"),
        ({"scaling": "legw", "base_size": 32, "warmup_samples": 9, "warmup_start": 0.5}, "warmup_start = 0.5 must be"),
        ({"warmup_start": 0.5}, "warmup_start = 0.5 must be left out"),
        ({"decay": "cosine"}, "needs decay_samples"),
        ({"decay": "steps"}, "steps need numbers"),
        ({"decay_samples": 100}, "decay_samples = 100.0 must be left out"),
        ({"decay": "steps", "drops": {5: 0.1}, "floor": 0.1}, "floor = 0.1 must be left out"),
        ({"decay": "cosine", "decay_samples": 100, "warmup_samples": 100}, "must exceed warmup_samples"),
    ],
)
def test_contradictions_are_refused_with_rule_value_and_way_out(table, rule):
    with pytest.raises(ValidationError, match=rule) as refused:
        LearningRate(**table)

    assert "; " in str(refused.value)
