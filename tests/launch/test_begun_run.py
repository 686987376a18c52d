"""A service starts by the same words every time: the first time they begin a run, then they go on with it."""

import os
from pathlib import Path

import pytest

from fedmb.errors import SettingsError
from fedmb.launch.begun_run import Asked, begun_or_resumed, latest
from fedmb.telemetry.run_directory import RunDirectory

LATEST = Path("latest")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*overrides, place=None, **explicit):
    return Asked(None, list(overrides), {"rounds.count": None, **explicit}, place)


def opened(asked, resume=None, **watching):
    settings, run = begun_or_resumed(asked, resume, {f"watching.{name}": value for name, value in watching.items()})
    run.close()
    return settings, run.path


def test_latest_begins_a_run_where_there_is_none_and_then_goes_on_with_it(place):
    words = asked("training.steps=4", seed=3)

    first, path = opened(words, LATEST)
    second, again = opened(words, LATEST)

    assert path.parent == place / "runs"
    assert again == path
    assert (first.seed, first.training.steps) == (3, 4)
    assert second == first


def test_latest_is_the_run_that_began_last_whatever_was_written_since(place):
    for number, name in enumerate(("b", "a")):
        RunDirectory.create(place / "runs" / name, config="", seed=0).close()
        os.utime(place / "runs" / name / "env.json", ns=(number, number))
    (place / "runs" / "b" / "config.toml").write_text("seed = 1\n")
    (place / "runs" / "no-run").mkdir()

    assert latest(place / "runs") == place / "runs" / "a"
    assert latest(place / "nowhere") is None


def test_words_that_would_change_the_run_are_refused_with_what_they_change():
    opened(asked("training.steps=4"), LATEST)

    with pytest.raises(SettingsError, match=r"keeps its settings, runs/\S+ has others in seed, training; leave out"):
        opened(asked("training.steps=5", seed=1), LATEST)
    opened(asked(), LATEST)


def test_latest_has_no_place_of_its_own():
    with pytest.raises(SettingsError, match="write --resume other"):
        opened(asked(place=Path("other")), LATEST)


def test_more_rounds_stay_and_where_it_is_watched_does_not():
    _, path = opened(asked(), LATEST)

    now, _ = opened(asked(**{"rounds.count": 50}), path, port=9400)
    later, _ = opened(asked(), path)

    assert (now.rounds.count, now.watching.port) == (50, 9400)
    assert (later.rounds.count, later.watching.port) == (50, 0)


PRIVATE = ("aggregation.weights=equal", "aggregation.privacy.clip_norm=1", "aggregation.privacy.clients=4")
BUDGET = "aggregation.privacy.epsilon={}"


@pytest.mark.parametrize("again", [LATEST, None])
def test_a_larger_privacy_budget_stays_and_nothing_else_comes_with_it(again):
    words = [*PRIVATE, BUDGET.format(2)]
    _, path = opened(asked(*words), LATEST)

    now, _ = opened(asked(BUDGET.format(8)) if again is None else asked(*words, BUDGET.format(8)), again or path)
    later, _ = opened(asked(), path)

    assert now.aggregation.privacy.epsilon == later.aggregation.privacy.epsilon == 8
    with pytest.raises(SettingsError, match="keeps its settings"):
        opened(asked(*words, BUDGET.format(9), "training.steps=5"), again or path)


def test_a_smaller_privacy_budget_is_refused_and_the_run_can_still_be_opened():
    _, path = opened(asked(*PRIVATE, BUDGET.format(2)), LATEST)

    with pytest.raises(SettingsError, match="larger privacy budget than its epsilon 2, not a smaller one, got 1;"):
        opened(asked(BUDGET.format(1)), path)
    with pytest.raises(SettingsError, match="is read with clip_norm"):
        opened(asked(BUDGET.format(1)), opened(asked(place=Path("open")))[1])
    assert opened(asked(), path)[0].aggregation.privacy.epsilon == 2
