import pytest
from pydantic import ValidationError

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.geometric_median import GeometricMedian
from fedmb.aggregation.krum import MultiKrum
from fedmb.aggregation.rule import Mean
from fedmb.aggregation.rule_choice import Aggregation
from fedmb.errors import SettingsError


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ({}, Mean()),
        ({"rule": "clipped_mean", "clip_norm": 2.0}, ClippedMean(2.0)),
        ({"rule": "clipped_mean", "clip_medians": 1.5}, ClippedMean(None, 1.5)),
        ({"rule": "trimmed_mean", "bad_clients": 2}, TrimmedMean(2)),
        ({"rule": "median"}, Median()),
        ({"rule": "geometric_median"}, GeometricMedian()),
        ({"rule": "krum", "bad_clients": 1}, MultiKrum(1, 1)),
        ({"rule": "multi_krum", "bad_clients": 2, "chosen": 3}, MultiKrum(2, 3)),
        (
            {"rule": "multi_krum", "bad_clients": 2, "odd_medians": 3.0, "mixing": 0.3},
            MultiKrum(2, odd_medians=3.0, mixing=0.3),
        ),
    ],
    ids=str,
)
def test_a_rule_is_chosen_by_name(told, rule):
    assert Aggregation(**told).chosen_rule() == rule


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"rule": "krum"}, "krum must be told how many clients may be bad, got none; set bad_clients"),
        ({"bad_clients": 2}, "bad_clients is for krum, multi_krum, trimmed_mean, got it with mean"),
        ({"rule": "krum", "bad_clients": 1, "chosen": 2}, "chosen is for multi_krum, got it with krum"),
        (
            {"rule": "krum", "bad_clients": 1, "odd_medians": 2},
            "odd_medians and mixing are for multi_krum, got one with krum",
        ),
        ({"rule": "multi_krum", "bad_clients": 1, "mixing": 0.5}, r"got mixing 0\.5 without; set both or neither"),
        ({"rule": "median", "clip_norm": 1.0}, "are for clipped_mean, got rule median; leave them out"),
        ({"rule": "clipped_mean", "clip_norm": 1.0, "clip_medians": 2.0}, "got 1.0 and 2.0 medians; leave one out"),
        ({"rule": "clipped_mean", "clip_norm": float("inf")}, "above 0 and finite, got norm = inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_contradicts_or_is_idle_is_refused(told, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Aggregation(**told)


def test_a_rule_that_too_few_clients_could_serve_is_refused_before_the_first_round():
    chosen = Aggregation(rule="multi_krum", bad_clients=2)
    chosen.check_against(14, 0.5, key="rounds.min_clients")

    with pytest.raises(SettingsError, match=r"multi_krum needs at least 7 .* rounds\.min_clients = 12 of which 6 are"):
        chosen.check_against(12, 0.5, key="rounds.min_clients")
