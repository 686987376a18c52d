"""A log line for machines says what the line for people says."""

import json
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.telemetry.json_lines import JsonLinesFormatter, event_and_fields


def record(message, *arguments, exc_info=None):
    return logging.LogRecord("fedmb.x", logging.INFO, __file__, 1, message, arguments, exc_info)


def line(*message, **options):
    text = JsonLinesFormatter().format(record(*message, **options))
    assert "\n" not in text
    return json.loads(text)


def test_a_line_has_time_level_logger_event_and_typed_fields():
    found = line("batch stored topic=%s partition=%d offsets=%d..%d rate=%.1f", "meter", 3, 120, 183, 2.25)

    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "INFO",
        "logger": "fedmb.x",
        "event": "batch stored",
        "fields": {"topic": "meter", "partition": 3, "offsets": "120..183", "rate": 2.25},
    }


def test_a_value_that_looks_like_a_field_stays_a_value():
    found = line("record set aside source=%s error=%s", "log/t[0]@4", "bad level=ERROR rows=9")

    assert found["fields"] == {"source": "log/t[0]@4", "error": "bad level=ERROR rows=9"}
    assert found["level"] == "INFO"


def test_fields_are_found_in_a_text_without_arguments_too():
    assert event_and_fields(record("daemon ready rows=5 place=/a b share=0.5")) == (
        "daemon ready",
        {"rows": 5, "place": "/a b", "share": 0.5},
    )
    assert event_and_fields(record("round closed %s", "round=1 loss=0.5")) == (
        "round closed",
        {"round": 1, "loss": 0.5},
    )


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_a_word(number):
    assert line("pace rows_per_second=%g", number)["fields"] == {"rows_per_second": f"{number:g}"}


def test_a_format_that_does_not_fit_is_shown_and_not_raised():
    assert line("rows=%d", "many")["event"] == "rows=%d ('many',)"
    assert line("rows=%d of=%d", 1)["event"] == "rows=%d of=%d (1,)"


def test_a_traceback_is_one_field():
    try:
        int("no")
    except ValueError as error:
        found = line("poll failed", exc_info=(type(error), error, error.__traceback__))

    assert found["traceback"].startswith("Traceback")
    assert found["traceback"].endswith("'no'")


@given(st.text(), st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.booleans()), max_size=3))
def test_any_line_is_one_json_object(message, arguments):
    assert set(line(message, *arguments)) == {"time", "level", "logger", "event", "fields"}
