"""What is read without torch: a server's settings and rounds, a daemon's and a feeder's parts, a task's rows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedmb.training.choices import torch_is_here

ROOT = Path(__file__).resolve().parents[2]
TORCHLESS = ROOT / "tests" / "processes" / "torchless"
PARTS = (
    "server.app",
    "server.replay",
    "streams.daemon",
    "streams.feeder",
    "fedmb.cli.application",
    "fedmb.cli.server",
    "fedmb.federation.run_summary",
    "fedmb.federation.stream_feed",
    "fedmb.federation.stream_run",
    "fedmb.federation.stream_schema",
    "fedmb.launch.deployment",
)
"""Everything that runs in a server's or a stream's container."""


def said(lines):
    """What a Python without torch prints."""
    path = os.pathsep.join([str(TORCHLESS), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torch_is_found_without_being_imported():
    assert torch_is_here()
    assert said(["from fedmb.training.choices import torch_is_here", "print(torch_is_here())"]) == "False"


@pytest.mark.parametrize("part", PARTS)
def test_what_servers_and_streams_are_made_of_needs_no_torch(part):
    said([f"import {part}"])


def test_settings_are_read_without_torch_and_checked_for_what_torch_is_not_asked_about():
    lines = (
        "from fedmb.training.recipe import Training",
        "training = Training(steps=5, optimizer='torch.optim:NAdam', sizing={'kind': 'norm_test', 'max_size': 64})",
        "print(Training.model_validate(training.model_dump()) == training)",
        "cabs = {'optimizer': 'adam', 'sizing': {'kind': 'cabs', 'max_size': 64}}",
        "wrongs = [{'norm': 'ghost'}, {'overlap_steps': 20}, {'steps': float('inf')}, {'optimizer': 7}, cabs]",
        "for wrong in wrongs:",
        "    try:",
        "        Training(**wrong)",
        "    except ValueError:",
        "        print('refused', *wrong)",
    )

    assert said(lines).splitlines() == [
        "True",
        *(f"refused {name}" for name in ("norm", "overlap_steps", "steps", "optimizer", "optimizer sizing")),
    ]


def test_digits_have_their_rows_without_torch():
    lines = (
        "from fedmb.training.task import TaskWithData, load_task",
        "task = load_task('fedmb.tasks.digits:Digits')",
        "print(isinstance(task, TaskWithData), len(task.train_rows()['label']))",
    )

    assert said(lines) == "True 1437"


@pytest.mark.parametrize("module", ["client_settings", "deployed_server"])
def test_processes_that_only_watch_others_import_no_torch_where_there_is_one(module):
    lines = f"import sys, fedmb.federation.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "False"
