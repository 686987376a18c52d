import numpy as np
import pytest

from fedmb.errors import FedmbError
from fedmb.ingest.file_log import FileLog
from fedmb.ingest.file_writer import FsyncPolicy
from fedmb.settings import load
from fedmb.simulation.population import Population, Simulation, taken_records
from fedmb.simulation.run import held_out
from fedmb.tasks.digits import Digits


def population(path, **changes):
    explicit = {key.replace("__", "."): value for key, value in changes.items()}
    return Population(load(Simulation, explicit=explicit), Digits(), path)


def test_no_row_is_with_two_clients_and_none_is_lost(tmp_path):
    one = population(tmp_path)
    tables, pools = one._divided()
    one.close()
    held = [row.tobytes() for part in [*tables, *pools] for row in part["image"]]
    rows = [row.tobytes() for row in Digits().train_rows()["image"]]

    assert sorted(held) == sorted(rows)


def test_a_dataset_is_dealt_out_whole_and_all_rows_of_the_task_feed_the_streams(tmp_path):
    one = population(tmp_path, private__dataset="dataset:fedmb.tasks.digits:ShiftedDigits", private__clients=3)
    dealt = [one.trainers[f"private-{number}"].source.examples_per_epoch for number in range(3)]
    tables, pools = one._divided()
    one.close()

    assert sum(dealt) == 5 * 1437
    assert not tables
    assert sum(len(pool["label"]) for pool in pools) == 1437


def test_private_tables_are_skewed_by_label_and_even_with_a_large_alpha(tmp_path):
    def spread(alpha):
        one = population(tmp_path / str(alpha), private__alpha=alpha, private__share=0.5)
        tables, _ = one._divided()
        one.close()
        return np.ptp([np.bincount(table["label"], minlength=10) for table in tables], axis=0).max()

    assert spread(0.1) > 2 * spread(1e6)


def test_the_drift_lies_half_way_through_the_rows_that_the_run_uses():
    simulation = load(Simulation, explicit={"rounds.count": 10, "training.steps": 20, "replay.share": 0.5})
    without = load(Simulation, explicit={"rounds.count": 10, "training.steps": 20, "replay.share": 0.0})

    assert simulation.drift_record() == 10 * 20 * 16 // 8 // 2
    assert without.drift_record() == 10 * 20 * 32 // 8 // 2


def test_a_feeder_runs_ahead_by_its_lead_and_no_further(tmp_path):
    one = population(tmp_path, streamed__rows_per_second=float("inf"), streamed__lead_rows=80)
    source = one.trainers["stream-0"].source
    with one.feeding():
        for _ in range(20):
            source.take(32)

            assert one._streams[0].lag().popitem()[1] <= 80 // 8
    one.close()


def test_a_feeder_that_fails_is_told_and_not_swallowed(tmp_path):
    one = population(tmp_path)
    log = FileLog.open(tmp_path / "stream-0" / "log", fsync=FsyncPolicy.never(), create=False)
    owner = log.writer("rows", 0)

    with pytest.raises(FedmbError, match="stream-0"), one.feeding():
        pass
    owner.close()
    one.close()


def test_taken_records_follow_the_reader(tmp_path):
    one = population(tmp_path, replay__share=0.0)
    stream = one._streams[0]
    with one.feeding():
        stream.take(24)

    assert taken_records(stream) == 3
    one.close()


def test_departed_rows_are_those_whose_label_left_the_streams():
    simulation = load(Simulation, explicit={"streamed.labels_before": [1, 2, 5], "streamed.labels_after": [5]})

    assert set(held_out(simulation, Digits())["departed"]["label"]) == {1, 2}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"private.clients": 0, "streamed.clients": 0}, "needs a client"),
        ({"training.steps": float("inf"), "training.samples": 100}, "says when the stream drifts"),
    ],
)
def test_a_simulation_that_makes_no_sense_is_refused_before_it_starts(changes, sentence):
    with pytest.raises(FedmbError, match=sentence):
        load(Simulation, explicit=changes)
