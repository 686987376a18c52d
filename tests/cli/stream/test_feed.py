"""What words of `fedmb stream` log of a broker is theirs, and a driver's warnings."""

import pytest

from fedmb.cli import main
from fedmb.exit_codes import ExitCode


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a process that is none of pytest's
def test_tools_do_not_repeat_what_the_driver_is_about(kafka, topic, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    url = f"kafka://{kafka.address}/{topic}"
    other_task = ["--task", "fedmb.tasks.brackets:Brackets"]
    words = [
        ["feed", url, "--codec", "sample", "--records", "9", "--rows-per-second", "inf"],
        ["pack", url, "--to", f"{url}-packed", "--to-the-end", *other_task],
        ["replay-dlq", url, "--dry-run"],
    ]

    codes = [main(["stream", *one]) for one in words]
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]  # without date and time

    assert codes == [ExitCode.OK] * 3
    assert [" ".join(line.split(" ")[:2]) for line in lines] == [
        "feeder started",
        "packer started",
        *["record set"] * 9,
        "letters replayed",
    ]
