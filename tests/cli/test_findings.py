"""Findings are a table for people and JSON for programs."""

import json

from fedmb.cli.findings import Finding, Status, print_json, print_table

FOUND = [Finding("disk", Status.OK, "2 GB"), Finding("key", Status.FAILED, "expired", "make a new one")]


def test_json_says_whether_all_is_well(capsys):
    print_json(FOUND)

    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    assert told["checks"][1] == {"name": "key", "status": "failed", "found": "expired", "advice": "make a new one"}


def test_a_table_has_a_row_for_each(capsys):
    print_table(FOUND)

    shown = capsys.readouterr().out
    assert "disk" in shown
    assert "make a new one" in shown
