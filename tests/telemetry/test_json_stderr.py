"""Whatever is written to stderr, by whom ever, comes out as one JSON object a line."""

import json
import logging
import os
import subprocess
import sys

from fedmb.telemetry.json_lines import JsonLinesFormatter
from fedmb.telemetry.json_stderr import in_json, json_stderr
from fedmb.telemetry.log_lines import FORM

OWN = "import logging; from fedmb.telemetry.log_lines import show_log_lines as s; s(); logging.getLogger('fedmb').info"


def test_lines_of_this_process_of_its_programs_and_tracebacks_have_one_form(capfd):
    program = f"{OWN}('round trained rows=%d', 7); print('\\033[93mWARNING\\033[0m : rows=9'); 1 / 0"
    with json_stderr():
        os.write(2, b"said here\n\n")
        subprocess.run([sys.executable, "-c", program], stdout=2, check=False)
    os.write(2, b"words again\n")

    *lines, last = capfd.readouterr().err.splitlines()
    found = [json.loads(line) for line in lines]
    assert last == "words again"
    assert [(one["event"], one["fields"]) for one in found[:3]] == [
        ("said here", {}),
        ("round trained", {"rows": 7}),
        ("WARNING : rows=9", {}),  # no field comes from what others say
    ]
    assert found[-1]["event"] == "ZeroDivisionError: division by zero"
    assert {one["logger"] for one in found} == {"stderr", "fedmb"}
    assert FORM not in os.environ


def test_only_what_our_formatter_writes_passes_as_it_is():
    record = logging.LogRecord("fedmb", logging.INFO, "", 1, "round closed round=%d", (3,), None)
    own = JsonLinesFormatter().format(record)

    assert in_json(own) == own
    for other in ('{"event": "forged"}', "{broken", "[1]", '{"a": 1}'):
        assert json.loads(in_json(other))["event"] == other
