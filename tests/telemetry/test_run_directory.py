import json
import os
import resource
import subprocess
import sys

import pytest

from fedmb.errors import AlreadyOwned, SettingsError
from fedmb.telemetry.run_directory import RunDirectory, write_atomically


def test_a_new_run_writes_its_settings_and_environment(tmp_path):
    run = RunDirectory.create(tmp_path / "run", config="seed = 3\n", seed=3)

    assert run.config.read_text() == "seed = 3\n"
    assert json.loads((run.path / "env.json").read_text())["seed"] == 3


def test_a_directory_that_holds_a_run_is_not_started_anew(tmp_path):
    RunDirectory.create(tmp_path / "run", config="", seed=0).close()

    with pytest.raises(SettingsError, match="--resume"):
        RunDirectory.create(tmp_path / "run", config="", seed=0)


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(SettingsError, match=r"config\.toml"):
        RunDirectory.existing(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_and_told_who_owns_the_directory(tmp_path):
    run = RunDirectory.create(tmp_path / "run", config="", seed=0)
    program = (
        "from pathlib import Path; from fedmb.telemetry.run_directory import RunDirectory;"
        f"RunDirectory.existing(Path({str(run.path)!r}))"
    )
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    run.close()
    taken = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert AlreadyOwned.__name__ in refused.stderr
    assert f"process {os.getpid()}" in refused.stderr
    assert taken.returncode == 0


def test_an_atomic_write_replaces_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    (tmp_path / ".file.tmp").mkdir()

    with pytest.raises(OSError, match="directory"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_what_a_full_disk_left_half_written_is_removed_and_the_old_content_stays(tmp_path):
    path = tmp_path / "state"
    write_atomically(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{path}'"):
            write_atomically(path, "new " * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    assert path.read_text() == "old"
