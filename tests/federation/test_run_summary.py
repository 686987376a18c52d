import numpy as np

from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.rounds import Rounds
from fedmb.federation.run_summary import summary
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.telemetry.events import RoundReport
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.telemetry.sinks import JsonLines


def finished_run(path, version):
    run = RunDirectory.create(path, config="", seed=0)
    ledger = Ledger({StreamPartition("stream-0", "rows", 0): Position(12)})
    state = ServerState(version, {"w": np.zeros(2)}, ledger)
    checkpoint.save(run.checkpoints, state)
    lines = JsonLines(run.metrics)
    for number in range(1, version + 1):
        lines.report(RoundReport(number, 0.5, 1.0, {"accuracy": number / 10}, {"stream": 100, "replay": 50}, 0, 2))
    lines.close()
    return run, state


def test_a_summary_says_how_good_the_model_is_what_it_learnt_from_and_where_it_lies(tmp_path):
    run, state = finished_run(tmp_path / "run", 4)
    text = summary(run, state, rounds=Rounds(count=4), seconds=2.0, verb="server")

    assert "accuracy    0.4000" in text
    assert "200 replay, 400 stream" in text
    assert "stream-0/rows[0] @ 12" in text
    assert str(checkpoint.generations(run.checkpoints)[-1][1]) in text
    assert "stopped" not in text


def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path):
    run, state = finished_run(tmp_path / "run", 2)

    text = summary(run, state, rounds=Rounds(count=30), seconds=2.0, verb="simulate")

    assert f"fedmb simulate --resume {run.path}" in text


def test_a_run_without_end_says_how_many_rounds_it_has_had(tmp_path):
    run, state = finished_run(tmp_path / "run", 2)

    text = summary(run, state, rounds=Rounds(count="forever"), seconds=2.0, verb="server")

    assert "rounds      2 so far, without end" in text
    assert f"fedmb server --resume {run.path}" in text
