"""fedmb's own lines are shown once, and other loggers are left alone."""

import logging

import pytest

from fedmb.telemetry.log_lines import show_log_lines


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
