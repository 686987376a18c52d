"""fedmb's own lines are shown once, and other loggers are left alone."""

import json
import logging
import warnings

import pytest

from fedmb.telemetry.log_lines import show_all_warnings, show_log_lines


@pytest.fixture
def own():
    logger = logging.getLogger("fedmb")
    before = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers.clear()
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


def test_a_line_is_shown_once_however_often_lines_are_asked_for(own, capsys):
    show_log_lines()
    show_log_lines()

    logging.getLogger("fedmb.federation").info("round trained client=%s", "ward")

    assert capsys.readouterr().err.count("round trained client=ward") == 1


def test_other_loggers_are_left_alone(own):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)

    show_log_lines()

    assert (root.handlers, root.level) == before
    assert not own.propagate


def test_in_a_process_of_ours_every_line_is_one_json_object(own, capsys):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    own.propagate = True

    show_all_warnings(json=True)
    own.info("daemon ready rows=%d", 3)
    logging.getLogger("driver").info("chatter")
    logging.getLogger("driver").warning("broker gone")
    warnings.warn("old", stacklevel=1)
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("fedmb", "INFO"),
        ("driver", "WARNING"),
        ("py.warnings", "WARNING"),
    ]
    assert lines[0]["fields"] == {"rows": 3}
