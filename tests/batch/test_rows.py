"""The rows section refuses what sources would refuse, and the guide to them prints what it shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from fedmb.batch.buckets import Bucketing
from fedmb.batch.graph import Graph
from fedmb.batch.minibatch import Column
from fedmb.batch.node_table import GraphRows, node_columns
from fedmb.batch.prefetch import Prefetch
from fedmb.batch.rows import Rows
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError

SCHEMA = {"y": Column("int64")}


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
        {"buckets": {"pool": 0}},
        {"buckets": {"max_tokens": 0}},
        {"graph": {"fan_outs": [0]}},
    ],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValidationError):
        Rows(**setting)


def test_a_curriculum_begins_with_the_easy_rows_and_ends_with_all():
    columns = {"y": np.arange(100)}
    task = SimpleNamespace(difficulty=lambda rows: rows["y"])
    source = Rows(curriculum_samples=300, curriculum_start=0.2).mixed({"one": columns}, seed=0, client="a", task=task)
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


CONTRADICTIONS = {
    "got buckets and graph; keep one": {"buckets": {}, "graph": {}},
    "got buckets and curriculum_samples; keep one": {"buckets": {}, "curriculum_samples": 9},
    "got graph and curriculum_samples; keep one": {"graph": {}, "curriculum_samples": 9},
    "rows.buckets reads its table into memory, got mapped": {"buckets": {}, "mapped": True},
    "rows.graph reads its table into memory, got mapped": {"graph": {}, "mapped": True},
    "buckets level their batches, got tail 'drop'": {"buckets": {}, "tail": "drop"},
    "no thread may share, got prefetch 2": {"graph": {"sampler": "pyg"}, "prefetch": 2},
}


@pytest.mark.parametrize("sentence", CONTRADICTIONS)
def test_techniques_that_contradict_each_other_are_refused(sentence):
    with pytest.raises(ValidationError, match=sentence):
        Rows.model_validate(CONTRADICTIONS[sentence])


def test_buckets_cut_one_table():
    table = {"x": np.ones((3, 2)), "x_mask": np.ones((3, 2), bool)}

    with pytest.raises(SettingsError, match="one table by length, got 2 of client 'a'"):
        Rows(buckets=Bucketing()).mixed({"one": table, "other": table}, seed=0, client="a")


def test_several_graphs_are_mixed_in_every_batch():
    table = {**node_columns(Graph.of(np.array([[0, 1], [1, 2]]), 3)), "x": np.zeros(3), "y": np.arange(3)}
    parts = {"one": table, "other": table | {"x": np.ones(3)}}
    batch = Rows(graph=GraphRows(fan_outs=(1,))).mixed(parts, seed=0, client="a", task=SimpleNamespace(label="y"))
    columns = batch.take(6).columns

    assert columns["x"].sum() == 3
    assert (columns["x_1"][columns["hop_1_mask"]] == np.repeat([0, 1], 2)).all()
    assert "y_1" not in columns


def test_a_dataset_is_cut_and_made_ahead_as_the_section_says():
    source = Rows(tail="drop", prefetch=1).fetched([{"y": n} for n in range(7)], SCHEMA, seed=0, client="a")

    assert isinstance(source, Prefetch)
    assert [len(source.take(3)) for _ in range(4)] == [3, 3, 3, 3]
    source.close()


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ({"buckets": {}}, "stream"),
        ({"graph": {}}, "stream"),
        ({"buckets": {}}, "dataset"),
        ({"graph": {}}, "dataset"),
        ({"curriculum_samples": 9}, "dataset"),
        ({"mapped": True}, "dataset"),
    ],
)
def test_what_needs_a_table_is_refused_elsewhere(setting, kind):
    with pytest.raises(SettingsError, match=f"rows.{next(iter(setting))} needs its rows in a table, got a {kind}; "):
        Rows.model_validate(setting).check_against(kind)


def test_what_needs_no_table_is_allowed_everywhere():
    rows = Rows(tail="keep", prefetch=3, temperature=2)

    rows.check_against("stream")
    rows.check_against("dataset")


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
