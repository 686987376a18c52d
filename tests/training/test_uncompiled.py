"""Each in a process of its own: what is imported stays imported."""

import subprocess
import sys

import pytest

SPARED = """
import sys, torch
from fedmb.training.optimizer_choice import optimizer_of
from fedmb.training.uncompiled import COMPILER, spare_compiler
def has_compiler():
    return "torch._dynamo.eval_frame" in sys.modules
def stepped(name):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = optimizer_of(name, model.parameters(), learning_rate=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return [parameter.tolist() for parameter in model.parameters()]
NAMES = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lars", "lamb")
"""


def printed(script):
    found = subprocess.run([sys.executable, "-c", SPARED + script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_no_optimizer_imports_the_compiler():
    assert printed("for name in NAMES: stepped(name); print(has_compiler())") == ["False"] * 7


def test_steps_have_the_same_bits_once_the_compiler_is_there():
    script = "before = [stepped(name) for name in NAMES]\nimport torch._dynamo.config\nprint(has_compiler())\n"
    script += "print(before == [stepped(name) for name in NAMES])"

    assert printed(script) == ["True", "True"]


@pytest.mark.parametrize(
    "asked",
    [
        "from torch._dynamo import config; config.cache_size_limit",
        "import torch._dynamo.testing; torch._dynamo.testing.CompileCounter",
        "torch._dynamo.disable(stepped)",
        "torch.compile(torch.nn.Linear(3, 2), backend='eager')(torch.ones(1, 3))",
    ],
)
def test_whoever_asks_for_the_compiler_gets_it(asked):
    script = f"stepped('sgd')\nbefore = has_compiler()\n{asked}\n"
    script += "module = sys.modules[COMPILER]\nprint(before, has_compiler(), torch._dynamo is module)\n"
    script += "print(module.__file__.endswith('__init__.py'), type(module).__name__)"

    assert printed(script) == ["False", "True", "True", "True", "module"]


def test_methods_of_an_optimizer_are_marked_for_the_compiler_that_came_later():
    script = "stepped('sgd')\ncompiled = torch.compile(lambda: stepped('sgd'), backend='eager')\n"
    script += "print(compiled() == stepped('sgd'))"

    assert printed(script) == ["True"]


def test_a_compiler_that_is_there_is_left_alone():
    script = "import torch._dynamo as before\nspare_compiler()\nprint(sys.modules[COMPILER] is before)"

    assert printed(script) == ["True"]
