"""What a run's directory says in Prometheus' names, while another process writes there."""

import json

import numpy as np

from fedmb.federation import checkpoint, run_figures
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.run_figures import OTHERS, RunFigures
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.telemetry.events import RoundReport
from fedmb.telemetry.sinks import JsonLines


def report(number, **fields):
    known = {"seconds": 2.0, "train_loss": 1.5, "scores": {"accuracy": 0.9}, "rows": {"stream": 10}, "lag": 3}
    return RoundReport(round=number, **{**known, "clients": 2, "accepted": ("meter", "ward"), **fields})


def told(path, reports, after_round=0):
    sink = JsonLines(path, after_round=after_round)
    for one in reports:
        sink.report(one)
    sink.close()


def values(figures):
    return {
        (sample.name.removeprefix("fedmb_server_"), *sample.labels.values()): sample.value
        for family in figures.metrics()
        for sample in family.samples
    }


def figures_in(path):
    return RunFigures(path / "metrics.jsonl", path / "checkpoints")


def test_a_run_that_has_not_begun_stands_at_round_0(tmp_path):
    found = figures_in(tmp_path)

    assert values(found)[("round",)] == 0
    assert (found.round, found.line()) == (0, "round=0")


def test_rounds_add_up_and_the_newest_is_shown(tmp_path):
    found = figures_in(tmp_path)
    told(tmp_path / "metrics.jsonl", [report(1, rejected={"mole": "NaN"}, bytes_up=5)])
    first = values(found)
    told(tmp_path / "metrics.jsonl", [report(2, accepted=("ward",), alarms={"ward": 2}, bytes_up=7, lag=None)], 1)
    second = values(found)

    assert (first[("rejected_updates_total", "mole")], first[("lag_records",)]) == (1, 3)
    assert (second[("rounds_total",)], second[("round",)], second[("rows_total", "stream")]) == (2, 2, 20)
    assert (second[("accepted_updates_total", "ward")], second[("accepted_updates_total", "meter")]) == (2, 1)
    assert (second[("alarms_total", "ward")], second[("bytes_up_total",)]) == (2, 12)
    assert (second[("score", "accuracy")], second[("loss",)], second[("round_seconds_total",)]) == (0.9, 1.5, 4.0)
    assert ("lag_records",) not in second
    assert found.line() == "round=2 clients=2 accuracy=0.9000"


def test_a_torn_last_line_waits_for_its_end(tmp_path):
    file, found = tmp_path / "metrics.jsonl", figures_in(tmp_path)
    line = json.dumps(report(1).to_json()) + "\n"
    file.write_text(line + line[:20])
    torn = found.round
    with file.open("a") as more:
        more.write(line[20:].replace('"round": 1', '"round": 2'))

    assert torn == 1
    assert values(found)[("rounds_total",)] == 2


def test_a_round_that_is_told_again_turns_no_counter_back(tmp_path):
    file, found = tmp_path / "metrics.jsonl", figures_in(tmp_path)
    told(file, [report(number) for number in (1, 2, 3)])
    seen = [values(found)[("rows_total", "stream")]]
    for number in (3, 4):  # the third had no checkpoint when the server's process was killed
        told(file, [], after_round=2) if number == 3 else None
        seen.append(values(found)[("rows_total", "stream")])
        told(file, [report(number)], after_round=number - 1)
        seen.append(values(found)[("rows_total", "stream")])

    assert seen == [30, 30, 30, 30, 40]


def test_positions_are_those_of_the_newest_stored_model(tmp_path):
    partition, found = StreamPartition("site", "rows", 3), figures_in(tmp_path)
    for version, offset in ((1, 12), (2, 30)):
        ledger = Ledger({partition: Position(offset)})
        checkpoint.save(tmp_path / "checkpoints", ServerState(version, {"w": np.zeros(2)}, ledger))

    assert values(found)[("ledger_offset", "site", "rows", "3")] == 30


def test_names_that_clients_make_up_do_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(run_figures, "MOST_CLIENTS", 2)
    rejected = {f"node {number}": "no" for number in range(5)}
    told(tmp_path / "metrics.jsonl", [report(1, accepted=("ward",), rejected=rejected)])
    found = values(figures_in(tmp_path))

    assert found[("accepted_updates_total", "ward")] == 1
    assert found[("rejected_updates_total", OTHERS)] == 4
