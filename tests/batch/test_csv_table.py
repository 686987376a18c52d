"""Text becomes numbers exactly, or the line and column that cannot are named."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmb.batch.csv_table import CHUNK_ROWS
from fedmb.batch.files import load_table
from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, FedmbError, SettingsError, ShapeError

SCHEMA = {"x": Column("float32", (2,)), "label": Column("uint8"), "ill": Column("bool")}
TEXT = "x_0,x_1,name,label,ill\n0.5,-1e3,a,7,true\n2,nan,b,255,0\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.csv"


def test_columns_come_back_with_their_dtypes_and_others_are_left_out(path):
    path.write_text(TEXT)

    table = load_table(path, schema=SCHEMA)

    assert table.keys() == SCHEMA.keys()
    assert table["x"].dtype == np.float32
    assert np.array_equal(table["x"], np.array([[0.5, -1000], [2, np.nan]], np.float32), equal_nan=True)
    assert table["label"].tolist() == [7, 255]
    assert table["ill"].tolist() == [True, False]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.floats(), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20))
def test_every_number_survives_the_way_through_text(path, rows):
    with path.open("w", newline="") as text:
        csv.writer(text).writerows([("x", "n"), *rows])

    table = load_table(path, schema={"x": Column("float64"), "n": Column("int64")})

    assert np.array_equal(table["x"], np.array([x for x, _ in rows]), equal_nan=True)
    assert table["n"].tolist() == [n for _, n in rows]


def test_more_rows_than_a_chunk_keep_their_order(path):
    count = 2 * CHUNK_ROWS + 3
    path.write_text("n\n" + "\n".join(map(str, range(count))))

    assert np.array_equal(load_table(path, schema={"n": Column("int32")})["n"], np.arange(count))


def test_quotes_blank_lines_spaces_and_a_byte_order_mark_are_understood(path):
    path.write_bytes(b'\xef\xbb\xbf"n", note\r\n"1","a, b"\r\n\r\n 2 ,"two\r\nlines"\r\n3,c\r\n')

    assert load_table(path, schema={"n": Column("int64")})["n"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "1,2,c,,0\n", "column 'label' must hold uint8, got '' in line 4"),
        (TEXT + "1,2,c,256,0\n", "column 'label' must hold uint8, got '256' in line 4"),
        (TEXT + "1,2,c,-1,0\n", "column 'label' must hold uint8, got '-1' in line 4"),
        (TEXT + "1,2,c,1.5,0\n", "column 'label' must hold uint8, got '1.5' in line 4"),
        (TEXT + "\n1,two,c,1,0\n", "column 'x_1' must hold float32, got 'two' in line 5"),
        (TEXT + "1,2,c,1,yes\n", "column 'ill' must hold bool, got 'yes' in line 4"),
        (TEXT + "1,2,c\n", "line 4 of .* must have 5 cells like the header, got 3"),
        (TEXT + '1,2,"c,1,0\n', "readable"),
    ],
)
def test_a_bad_cell_is_named_by_line_and_column(path, text, message):
    path.write_text(text)

    with pytest.raises(DecodeError, match=message):
        load_table(path, schema=SCHEMA)


@pytest.mark.parametrize("header", ["x_0,x_1,label", "x_0,x_1,label,ill,ill", "x_0,x_1,label,Ill"])
def test_a_header_that_lacks_or_doubles_a_column_is_refused(path, header):
    path.write_text(header + "\n1,2,3\n")

    with pytest.raises(ShapeError, match="must name 'ill' once"):
        load_table(path, schema=SCHEMA)


def test_a_schema_is_needed_and_must_be_one_of_numbers(path):
    path.write_text(TEXT)

    with pytest.raises(SettingsError, match="needs a schema"):
        load_table(path)
    for column in (Column("float32", (2, 2)), Column("str")):
        with pytest.raises(SettingsError, match="numbers or vectors of numbers"):
            load_table(path, schema={"x": column})


def test_a_file_of_no_rows_no_text_or_too_many_bytes_is_refused(path):
    path.write_text("n\n")
    with pytest.raises(ShapeError, match="examples on its first axis"):
        load_table(path, schema={"n": Column("int64")})
    path.write_bytes(b"n\n\xff\n")
    with pytest.raises(DecodeError, match="UTF-8"):
        load_table(path, schema={"n": Column("int64")})
    path.write_text("n\n" + "1\n" * 50)
    with pytest.raises(DecodeError, match="at most 300 bytes"):
        load_table(path, schema={"n": Column("int64")}, max_bytes=300)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_table_or_a_fedmb_error(path, content):
    path.write_bytes(b"n\n" + content)

    try:
        table = load_table(path, schema={"n": Column("float64")})
    except FedmbError:
        return
    assert len(table["n"]) >= 1
