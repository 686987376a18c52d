"""The terms of a round travel whole, and nothing else passes for them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.training.round_terms import RoundTerms

times = st.floats(min_value=0.001, allow_nan=False)


@given(st.builds(RoundTerms, seconds=times, silence_seconds=times, resting=st.lists(st.text()).map(tuple)))
def test_what_is_sent_is_read_back(terms):
    assert RoundTerms.from_json(terms.to_json()) == terms
    json.loads(terms.to_json(), parse_constant=pytest.fail)  # strict JSON: no Infinity


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": -1}, {"silence_seconds": -1}, {"resting": 3}])
def test_terms_that_would_end_a_round_before_it_begins_are_refused(wrong):
    sent = json.loads(RoundTerms().to_json()) | wrong

    with pytest.raises((ValueError, TypeError)):
        RoundTerms.from_json(json.dumps(sent))


def test_by_default_a_client_learns_as_its_own_budget_says():
    assert RoundTerms() == RoundTerms(math.inf, until_alarm=False, skips_silent=False, resting=())
