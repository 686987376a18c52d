import io
import logging

import pytest
from rich.console import Console

from fedmb.telemetry.console import LiveTable, LogLines, size
from fedmb.telemetry.events import RoundReport


def report(**fields):
    known = {"round": 3, "seconds": 0.5, "train_loss": 1.25, "scores": {"accuracy": 0.9}, "rows": {"stream": 1000}}
    return RoundReport(**{**known, "lag": 17, "clients": 2, "bytes_up": 1_234_567, "bytes_down": 89, **fields})


def shown(*reports, total=5):
    screen = io.StringIO()
    table = LiveTable(Console(file=screen, width=120), total=total)
    for one in reports:
        table.report(one)
    table.close()
    return screen.getvalue()


def test_a_row_holds_the_figures_of_its_round():
    row = next(line for line in shown(report()).splitlines() if line.strip().startswith("3 "))

    assert row.split() == ["3", "1.2500", "0.9000", "-", "2,000", "0", "1,000", "0", "17", "1.2M"]


def test_every_column_stands_under_its_name():
    lines = shown(report()).splitlines()
    head = next(line for line in lines if "accuracy" in line and "rows/s" in line)
    row = next(line for line in lines if line.strip().startswith("3 "))

    assert head.index("accuracy") + len("accuracy") == row.index("0.9000") + len("0.9000")


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (99_400, "99.4k"),
        (99_500, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (25_000_000_000, "25.0G"),
    ],
)
def test_bytes_are_shown_in_a_few_letters(num_bytes, shown):
    assert size(num_bytes) == shown


def test_a_client_that_was_left_out_is_named_with_its_reason():
    assert "site-7 left out: its disk is full" in shown(report(rejected={"site-7": "its disk is full"}))


def test_clients_with_nothing_new_are_named_when_they_change():
    quiet = [(), ("a",), ("a",), ("a", "b"), ()]
    lines = [line.strip() for line in shown(*(report(skipped=names) for names in quiet)).splitlines()]

    assert [line for line in lines if "new" in line] == [
        "nothing new from a",
        "nothing new from a, b",
        "every client has new rows",
    ]


def test_a_run_without_end_shows_no_total():
    text = shown(report(round=41), total=None)

    assert "41" in text.splitlines()[-1]
    assert "/" not in text.splitlines()[-1].partition("0:00")[0]


def test_what_closed_a_round_early_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        LogLines().report(report(closed_by="rows", skipped=("a", "b")))
        LogLines().report(report())

    assert caplog.messages[0].endswith("closed_by=rows skipped=a,b")
    assert "closed_by" not in caplog.messages[1]


def test_without_a_terminal_a_round_is_one_log_line(caplog):
    with caplog.at_level(logging.INFO):
        LogLines().report(report(lag=None))

    assert "round=3 loss=1.2500 accuracy=0.9000" in caplog.text
    assert "stream=1000" in caplog.text
    assert "lag=-" in caplog.text
    assert "bytes_down=89 bytes_up=1234567" in caplog.text


def test_a_server_that_scores_nothing_logs_what_clients_score_on_the_rows_they_learn(caplog):
    with caplog.at_level(logging.INFO):
        LogLines().report(report(scores={}, monitor={"train_accuracy": 0.875}))
        LogLines().report(report(monitor={"train_accuracy": 0.875}))

    assert "accuracy=- " in caplog.messages[0]
    assert "train_accuracy=0.8750" in caplog.messages[0]
    assert "train_accuracy" not in caplog.messages[1]
