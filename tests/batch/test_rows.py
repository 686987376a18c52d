"""The rows section refuses what sources would refuse, and the guide to them prints what it shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

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


@pytest.mark.parametrize(
    "setting",
    [
        {"tail": "reflect"},
        {"prefetch": -1},
        {"pool": 3},
    ],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValidationError):
        Rows(**setting)


@pytest.fixture
def guide():
    text = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "rows.md").read_text()
    return re.findall(r"```python\n(.*?)```\n```\n(.*?)```\n", text, re.DOTALL), text


def test_every_snippet_of_the_guide_prints_what_it_shows(guide, tmp_path, monkeypatch, capsys):
    snippets, text = guide
    assert len(snippets) == text.count("```python") > 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    for code, printed in snippets:
        exec(code, names)  # noqa: S102  # the guide's own code

        assert capsys.readouterr().out == printed, code


def test_the_guide_names_modules_that_exist(guide):
    for name in set(re.findall(r"`(fedmb\.batch\.\w+)", guide[1])):
        assert importlib.util.find_spec(name), name
