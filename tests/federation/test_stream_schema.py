"""A stream's columns travel in a file, to processes that have neither task nor torch."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.federation.stream_schema import read_schema, schema_named, schema_text
from fedmb.ingest.codec import DTYPES, schema_id
from fedmb.tasks.digits import Digits

SCHEMA = {"x": Column("float32", (3, 2)), "y": Column("uint8")}
columns = st.builds(Column, st.sampled_from(DTYPES), st.lists(st.integers(1, 9), max_size=3).map(tuple))


def written(tmp_path, content):
    file = tmp_path / "schema.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@given(st.dictionaries(st.text(min_size=1), columns, min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory, schema):
    file = written(tmp_path_factory.getbasetemp(), schema_text(schema))

    assert read_schema(file) == schema
    assert schema_text(read_schema(file)) == schema_text(schema)


def test_the_file_names_the_schema_that_records_carry():
    assert json.loads(schema_text(SCHEMA)) == {
        "columns": {"x": {"dtype": "float32", "shape": [3, 2]}, "y": {"dtype": "uint8", "shape": []}},
        "schema": schema_id(SCHEMA),
    }


def test_a_file_by_hand_may_leave_out_its_name_and_a_shape(tmp_path):
    assert read_schema(written(tmp_path, {"columns": {"y": {"dtype": "uint8"}}})) == {"y": Column("uint8")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "got no object with columns"),
        ("[" * 3000, "got no object with columns"),
        ([], "got no object with columns"),
        ({"columns": {"x": 3}}, "got '3' for column 'x'"),
        ({"columns": {"x": {"dtype": "float31"}}}, "got dtype 'float31' for column 'x'"),
        ({"columns": {"x": {"dtype": "float32", "shape": [True]}}}, "for column 'x'"),
        ({"columns": {"x": {"dtype": "float32", "shape": [0]}}}, "axes of a column must be 1 or more"),
        ({"columns": {}}, "must have 1 column or more"),
        ({"columns": {"x": {"dtype": "bool"}}, "schema": "00"}, "name must be that of its columns"),
    ],
)
def test_a_file_that_is_no_schema_is_refused(content, words, tmp_path):
    with pytest.raises(SettingsError, match=words):
        read_schema(written(tmp_path, content))


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        read_schema(tmp_path / "none.json")


def test_the_schema_of_a_task_is_found_by_name():
    assert schema_named("fedmb.tasks.digits:Digits") == Digits.schema


def test_a_class_that_makes_its_schema_is_asked_for_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    lines = ["from fedmb.batch.minibatch import Column", "class Task:", "    def __init__(self):"]
    (tmp_path / "schema_of_mine.py").write_text("\n".join([*lines, "        self.schema = {'z': Column('bool')}"]))

    assert schema_named("schema_of_mine:Task") == {"z": Column("bool")}


@pytest.mark.parametrize("name", ["digits", "nowhere:Task", "fedmb.tasks.digits:Nothing", "json:JSONDecoder"])
def test_a_name_without_a_schema_is_refused(name):
    with pytest.raises(SettingsError, match=r"a task is written|must be importable and have a schema"):
        schema_named(name)
