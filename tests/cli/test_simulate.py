"""`fedmb simulate` as it is called: a run goes on by what it may be told anew."""

from fedmb.cli import main
from fedmb.exit_codes import ExitCode

SHORT = ("training.steps=2", "streamed.clients=0", "private.clients=2", "rounds.count=9")
PRIVATE = ("weights=equal", "privacy.clip_norm=1", "privacy.clients=2", "privacy.noise_multiplier=2")
BUDGET = "aggregation.privacy.epsilon={}"


def sets(*overrides):
    return [part for one in overrides for part in ("--set", one)]


def test_a_run_that_ended_for_its_privacy_budget_goes_on_with_a_larger_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = sets(*SHORT, *(f"aggregation.{one}" for one in PRIVATE), BUDGET.format(3.5))
    said = []
    for words in (["--run-dir", "run", *settings], ["--resume", "run"], ["--resume", "run", *sets(BUDGET.format(4.5))]):
        assert main(["simulate", *words]) == ExitCode.OK
        said.append(capsys.readouterr().out)

    assert [one.split()[1] for one in said] == ["2", "2", "3"]
    assert all("converged   privacy budget" in one for one in said)
    assert "over the 4.5 of aggregation.privacy.epsilon" in said[2]
    assert main(["simulate", "--resume", "run", *sets(BUDGET.format(1))]) == ExitCode.SETTINGS
    assert "larger privacy budget than its epsilon 4.5, not a smaller one, got 1" in capsys.readouterr().err
    assert main(["simulate", "--resume", "run", *sets("training.steps=3")]) == ExitCode.SETTINGS
