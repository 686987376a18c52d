import numpy as np
import pytest

from fedmb.errors import ShapeError
from fedmb.training.kept_arrays import KeptArrays


@pytest.mark.parametrize("place", ["memory", "files"])
def test_sets_are_kept_by_version_and_much_older_ones_go(tmp_path, place):
    kept = KeptArrays("sum", tmp_path / "new" if place == "files" else None)
    for version in (1, 2, 3, 7, 3):
        kept.save({"w": np.full(2, version, np.float32)}, version)

    assert kept.versions() == [2, 3, 7][-len(kept.versions()) :]
    assert kept.load(7)["w"].tolist() == [7, 7]
    assert kept.load(3)["w"].tolist() == [3, 3]


def test_another_kind_in_the_same_folder_is_not_seen(tmp_path):
    KeptArrays("sum", tmp_path).save({"w": np.zeros(1)}, 4)

    assert KeptArrays("su", tmp_path).versions() == []
    assert KeptArrays("sum", tmp_path).versions() == [4]


def test_a_damaged_file_is_told(tmp_path):
    kept = KeptArrays("sum", tmp_path)
    kept.save({"w": np.ones(2)}, 1)
    path = tmp_path / "sum-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")

    with pytest.raises(ShapeError, match="damaged"):
        kept.load(1)
