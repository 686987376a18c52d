import pytest

from fedmb.errors import SettingsError
from fedmb.replay.kept_states import NEWEST, KeptStates


@pytest.fixture(params=["in memory", "in files"])
def states(request, tmp_path):
    return KeptStates(tmp_path / "states" if request.param == "in files" else None)


def test_a_state_is_found_under_its_name_alone(states):
    first, second = states.save(7, b"one"), states.save(7, b"two")

    assert first != second
    assert first.startswith("7-")
    assert states.load(first) == b"one"
    assert states.load(second) == b"two"
    assert states.load("7-0123456789abcdef") is None


@pytest.mark.parametrize("name", ["", "7", "../7-0123456789abcdef", "7-0123456789abcdef/..", "7-0123456789ABCDEF"])
def test_a_name_of_somebody_else_finds_nothing(states, name):
    states.save(7, b"one")

    assert states.load(name) is None


def test_the_newest_are_kept_and_a_state_that_comes_again_is_new(states):
    names = [states.save(number, b"%d" % number) for number in range(NEWEST)]
    again = states.save(0, b"0")
    more = [states.save(number, b"more %d" % number) for number in range(NEWEST - 1)]

    assert again == names[0]
    assert [states.load(name) is not None for name in names] == [True] + [False] * (NEWEST - 1)
    assert all(states.load(name) for name in more)


def test_all_are_kept_where_that_is_asked_for(tmp_path):
    states = KeptStates(tmp_path, keep=None)
    names = [states.save(number, b"%d" % number) for number in range(20)]

    assert [states.load(name) for name in names] == [b"%d" % number for number in range(20)]
    with pytest.raises(SettingsError, match="1 state or more"):
        KeptStates(keep=0)


def test_a_damaged_file_is_no_state_and_other_files_are_left_alone(tmp_path):
    (tmp_path / "notes").write_text("mine")
    states = KeptStates(tmp_path, keep=1)
    name = states.save(7, b"one")
    (tmp_path / name).write_bytes(b"two")

    assert states.load(name) is None
    assert KeptStates(tmp_path).load(states.save(8, b"three")) == b"three"
    assert (tmp_path / "notes").read_text() == "mine"
