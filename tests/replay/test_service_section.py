import pytest
from pydantic import ValidationError

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.replay.service_section import ReplayServe, TableSection, column_of

TABLE = {"columns": {"x": "float32[3, 4]", "y": "bool"}, "capacity": 10}


def test_columns_are_written_as_dtype_and_shape():
    assert TableSection(**TABLE).row_schema() == {"x": Column("float32", (3, 4)), "y": Column("bool")}
    assert column_of("z", " uint8[7] ") == Column("uint8", (7,))


@pytest.mark.parametrize(
    "form", ["", "float", "f4", "float32[", "float32[]", "float32[-1]", "object", "str", "V4", "x[3]"]
)
def test_what_is_no_column_is_refused_with_an_example(form):
    with pytest.raises(ValidationError, match=r"must be like \"float32\[84, 84\]\""):
        TableSection(columns={"x": form}, capacity=1)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"capacity": 0}, "greater than or equal to 1"),
        ({"columns": {}}, "at least 1 item"),
        ({"remover": {"kind": "class_balanced"}}, "label must be given"),
        ({"remover": {"kind": "fifo", "label": "y"}}, "label must be given"),
        ({"sampler": {"kind": "best"}}, "uniform"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused(change, rule):
    with pytest.raises(ValidationError, match=rule):
        TableSection(**{**TABLE, **change})


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 101])
def test_a_table_s_name_is_fit_for_a_folder(name):
    with pytest.raises(ValidationError, match="name must be"):
        ReplayServe(tables={name: TABLE})


def test_two_tables_have_two_folders(tmp_path):
    one = {**TABLE, "folder": tmp_path / "a"}
    other = {**TABLE, "folder": tmp_path / "b" / ".." / "a"}

    with pytest.raises(ValidationError, match="folder each"):
        ReplayServe(tables={"one": one, "other": other})


def test_beyond_loopback_is_refused_when_it_is_to_listen():
    settings = ReplayServe(tables={"default": TABLE}, host="192.0.2.1")

    with pytest.raises(SettingsError, match="TLS and a token"):
        settings.listening()
