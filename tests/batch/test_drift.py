import numpy as np
import pytest

from fedmb.batch.drift import DriftingRows, Phase
from fedmb.errors import SettingsError
from fedmb.tasks.digits import Digits

LOW, HIGH = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]


def drifting(stream="a", seed=0, at=10):
    phases = [Phase(0, LOW), Phase(at, HIGH)]
    return DriftingRows(
        Digits().train_rows(), label="label", phases=phases, rows_per_record=16, seed=seed, stream=stream
    )


def test_a_record_depends_on_its_number_alone():
    rows = drifting()
    rows(3)

    assert np.array_equal(rows(7)["image"], drifting()(7)["image"])


def test_labels_change_at_the_record_where_the_phase_starts():
    rows = drifting(at=10)
    before = np.concatenate([rows(record)["label"] for record in range(10)])
    after = np.concatenate([rows(record)["label"] for record in range(10, 20)])

    assert set(before) == set(LOW)
    assert set(after) == set(HIGH)


def test_streams_and_seeds_draw_differently():
    first = drifting()(0)["image"]

    assert not np.array_equal(first, drifting(stream="b")(0)["image"])
    assert not np.array_equal(first, drifting(seed=1)(0)["image"])


def test_rows_are_rows_of_the_table():
    table = {image.tobytes() for image in Digits().train_rows()["image"]}

    assert all(image.tobytes() in table for image in drifting()(0)["image"])


@pytest.mark.parametrize("starts", [[], [1], [0, 5, 5], [0, 7, 3]])
def test_phases_that_do_not_rise_from_zero_are_refused(starts):
    with pytest.raises(SettingsError, match="rise"):
        DriftingRows(
            Digits().train_rows(),
            label="label",
            phases=[Phase(s, LOW) for s in starts],
            rows_per_record=1,
            seed=0,
            stream="",
        )


def test_a_label_that_the_table_lacks_is_named():
    with pytest.raises(SettingsError, match="12"):
        DriftingRows(
            Digits().train_rows(), label="label", phases=[Phase(0, [12])], rows_per_record=1, seed=0, stream=""
        )
