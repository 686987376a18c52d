import importlib
import sys

import pytest

from fedmb.errors import VersionMismatch
from fedmb.tasks.brackets import Brackets
from fedmb.tasks.digits import Digits
from fedmb.training.task_digest import check_parameters, check_task, parameters_digest, task_digest


class Local(Digits):
    pass


def written(folder, name, text, monkeypatch):
    """An instance of class Own in a module of its own."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    sys.modules.pop(name, None)
    return importlib.import_module(name).Own()


def test_a_digest_names_the_class_and_is_that_of_its_module():
    assert task_digest(Digits()).startswith("fedmb.tasks.digits:Digits@")
    assert task_digest(Digits()) == task_digest(Digits())
    assert len({task_digest(one) for one in (Digits(), Brackets(), Local())}) == 3


def test_one_letter_of_the_source_is_another_digest_and_its_place_is_none(tmp_path, monkeypatch):
    text = "class Own:\n    rate = 1\n"
    places = [tmp_path / name for name in "ab"]
    for place in places:
        place.mkdir()
    here, elsewhere = (written(place, f"own_{place.name}", text, monkeypatch) for place in places)
    other = written(tmp_path, "own_c", text.replace("1", "2"), monkeypatch)

    check_task(task_digest(here), task_digest(elsewhere))
    with pytest.raises(VersionMismatch) as error:
        check_task(task_digest(here), task_digest(other))
    assert task_digest(here) in str(error.value)
    assert task_digest(other) in str(error.value)


def test_a_source_that_changes_later_is_not_what_runs(tmp_path, monkeypatch):
    task = written(tmp_path, "own_d", "class Own:\n    rate = 1\n", monkeypatch)
    before = task_digest(task)
    (tmp_path / "own_d.py").write_text("class Own:\n    rate = 3\n")

    assert task_digest(task) == before


def test_a_class_without_source_is_not_compared():
    made = type("Made", (), {"__module__": "nowhere"})()

    assert task_digest(made) == ""
    check_task("", task_digest(Digits()))
    check_task(task_digest(Digits()), "")


def test_other_trained_arrays_are_told_by_number_and_digest_whatever_their_order():
    theirs = parameters_digest(["weight", "bias"])

    check_parameters(theirs, {"bias", "weight"})
    check_parameters("", {"whatever"})
    with pytest.raises(VersionMismatch, match=f"must train the same arrays, got {theirs} there and 1@"):
        check_parameters(theirs, {"weight"})
