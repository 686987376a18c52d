import numpy as np

from fedmb.federation.residual import Residual


def test_what_is_left_is_found_by_the_position_that_names_it(tmp_path):
    for residual in (Residual(tmp_path), Residual()):
        place = residual.keep(np.arange(3, dtype=np.float32), 5)
        later = residual.keep(np.zeros(3, np.float32), 6)

        assert residual.left({}, 3) is None
        assert residual.left(place, 3).tolist() == [0, 1, 2]
        assert residual.left(later, 3).tolist() == [0, 0, 0]


def test_another_process_finds_it(tmp_path):
    place = Residual(tmp_path).keep(np.arange(3, dtype=np.float32), 5)

    assert Residual(tmp_path).left(place, 3).tolist() == [0, 1, 2]


def test_three_versions_are_kept(tmp_path):
    residual = Residual(tmp_path)
    for version in range(1, 8):
        residual.keep(np.zeros(1, np.float32), version)

    assert sorted(path.name for path in tmp_path.iterdir()) == [f"residual-{at}.safetensors" for at in (5, 6, 7)]


def test_what_is_damaged_gone_or_of_another_model_counts_as_sent_and_is_told(tmp_path, caplog):
    residual = Residual(tmp_path)
    place = residual.keep(np.ones(300, np.float32), 5)
    path = tmp_path / "residual-5.safetensors"

    assert residual.left(place, 7) is None
    assert residual.left({"residual": 4}, 300) is None
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert residual.left(place, 300) is None
    assert residual.left({"residual": "five"}, 300) is None
    assert caplog.text.count("residual lost") == 4
    assert "damaged" in caplog.text
