"""The rows section refuses what the sources would refuse, before they are made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from fedmb.batch.prefetch import Prefetch
from fedmb.batch.rows import Rows
from fedmb.batch.table import TableSource


def test_prefetch_wraps_a_source_only_where_it_is_set():
    table = TableSource({"y": np.arange(9)}, seed=0, client=0)
    ahead = Rows(prefetch=2).ahead(table)

    assert Rows().ahead(table) is table
    assert isinstance(ahead, Prefetch)
    ahead.close()


def test_a_temperature_may_be_infinite():
    assert math.isinf(Rows(temperature=math.inf).temperature)


@pytest.mark.parametrize(
    "setting",
    [
        {"tail": "reflect"},
        {"prefetch": -1},
        {"bucket_pool": 0},
        {"bucket_tokens": 0},
        {"temperature": 0},
        {"temperature": math.nan},
        {"pool": 3},
    ],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValidationError):
        Rows(**setting)
