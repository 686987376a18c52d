"""A failure is a sentence for people, and in JSON a line of the log like all others."""

import json

import pytest

from fedmb.cli.log_form import logging_as
from fedmb.errors import AccessDenied
from fedmb.exit_codes import ExitCode


def denied():
    raise AccessDenied("a node must be known, got another key; register it")


def test_in_json_a_failure_is_a_line_with_its_code(capfd):
    assert logging_as(denied, json=True, name="client") == ExitCode.DENIED

    (line,) = capfd.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["event"], found["level"]) == ("client failed", "ERROR")
    assert found["fields"]["code"] == ExitCode.DENIED
    assert found["fields"]["reason"] == "a node must be known, got another key; register it"


def test_in_words_it_is_left_to_the_last_frame():
    with pytest.raises(AccessDenied):
        logging_as(denied, json=False, name="client")


def test_what_nobody_foresaw_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        logging_as(lambda: 1 // 0, json=True, name="client")
