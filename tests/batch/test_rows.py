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
from fedmb.errors import SettingsError


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


def test_a_curriculum_begins_with_the_easy_rows_and_ends_with_all():
    columns = {"y": np.arange(100)}
    source = Rows(curriculum_samples=300, curriculum_start=0.2).mixed(
        {"one": columns}, seed=0, client="a", difficulty=lambda rows: rows["y"]
    )
    first = source.take(20).columns["y"]
    for _ in range(40):
        last = source.take(100).columns["y"]

    assert sorted(first) == list(range(20))
    assert sorted(last) == list(range(100))


def test_a_curriculum_without_scores_is_refused():
    with pytest.raises(SettingsError, match="difficulty"):
        Rows(curriculum_samples=10).mixed({"one": {"y": np.arange(9)}}, seed=0, client="a")


def test_without_a_curriculum_a_table_is_a_table():
    rows = Rows(tail="keep").mixed({"one": {"y": np.arange(9)}}, seed=0, client="a")
    plain = TableSource({"y": np.arange(9)}, seed=0, client="a", tail="keep")

    assert (rows.take(4).columns["y"] == plain.take(4).columns["y"]).all()


def test_several_tables_are_mixed_in_every_batch():
    tables = {"large": {"y": np.zeros(90)}, "small": {"y": np.ones(10)}}
    proportional = Rows().mixed(tables, seed=0, client="a").take(20).columns["y"]
    even = Rows(temperature=1e9).mixed(tables, seed=0, client="a").take(20).columns["y"]

    assert proportional.sum() == 2
    assert even.sum() == 10


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
