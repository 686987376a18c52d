import json
import math
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fedmb.telemetry.events import RoundReport
from fedmb.telemetry.sinks import JsonLines, TensorBoard, read_lines


def report(number, **fields):
    known = {
        "seconds": 0.5,
        "train_loss": 1.5,
        "scores": {"accuracy": 0.9},
        "rows": {"stream": 10},
        "lag": 3,
        "clients": 2,
    }
    return RoundReport(round=number, **{**known, **fields})


def rounds(path):
    return [entry["round"] for _, entry in read_lines(path)]


@contextmanager
def full_disk():
    """No file may grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_round_is_one_line_that_others_can_read(tmp_path):
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.report(report(1))
    sink.close()

    entry = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert entry["rows_per_second"] == 20.0
    assert entry["scores"] == {"accuracy": 0.9}


def test_a_resumed_run_drops_rounds_that_it_will_report_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    for number in range(1, 6):
        sink.report(report(number))
    sink.close()
    again = JsonLines(path, after_round=3)
    again.report(report(4))
    again.close()

    assert rounds(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_torn_by_a_kill_is_dropped(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    sink.report(report(1))
    sink.report(report(2))
    sink.close()
    path.write_bytes(path.read_bytes()[:-cut])

    assert rounds(path) == [1]
    JsonLines(path, after_round=2).close()
    assert path.read_bytes().endswith(b"\n")


def test_a_figure_that_is_no_number_is_null_and_not_broken_json(tmp_path):
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.report(report(1, train_loss=math.nan, seconds=0.0))
    sink.close()
    text = (tmp_path / "metrics.jsonl").read_text()

    assert "NaN" not in text
    assert json.loads(text)["train_loss"] is None


def test_tensorboard_event_files_hold_the_scalars(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.report(report(7))
    sink.close()
    written = b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))

    assert b"test/accuracy" in written
    assert b"stream/lag" in written


def test_what_nobody_knows_is_no_point_on_a_curve(tmp_path, capsys):
    sink = TensorBoard(tmp_path)
    sink.report(replace(report(7), train_loss=math.nan))
    sink.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")

    assert b"test/accuracy" in path.read_bytes()
    assert b"train/loss" not in path.read_bytes()
    assert capsys.readouterr() == ("", "")


def test_a_resumed_runs_points_hide_those_of_the_rounds_that_it_tells_again(tmp_path):
    sink = TensorBoard(tmp_path, after_round=3)
    sink.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")

    events = list(events_in(path))
    assert [(event.step, event.session_log.status) for event in events] == [(0, 0), (4, 1)]


def events_in(path):
    """By TensorFlow's framing: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


@pytest.mark.timeout(60)
def test_a_full_disk_is_an_error_of_tensorboard_and_no_endless_wait(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.report(report(1))
    with full_disk(), pytest.raises(OSError, match="File too large"):
        sink.close()


def test_a_run_that_is_resumed_on_a_full_disk_keeps_the_rounds_that_were_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    for number in range(1, 6):
        sink.report(report(number))
    sink.close()
    with full_disk(), pytest.raises(OSError, match="File too large"):
        JsonLines(path, after_round=3)

    assert rounds(path) == [1, 2, 3, 4, 5]
    with full_disk():
        JsonLines(path, after_round=5).close()
    assert rounds(path) == [1, 2, 3, 4, 5]
