"""Each script runs in a fork of one process that has stepped an optimiser: what is imported stays imported."""

import json
import subprocess
import sys

import pytest
import torch

from fedmb.training.uncompiled import backward_from

ASKED = {
    "part": "import torch._dynamo.testing; torch._dynamo.testing.CompileCounter",
    "disable": "torch._dynamo.disable(stepped)",
    "compile": "torch.compile(torch.nn.Linear(3, 2), backend='eager')(torch.ones(1, 3))",
}
SCRIPTS = {
    "steps": "[stepped(name) for name in NAMES]\nfound = [has_compiler()]",
    "looks": "import inspect\ninspect.getmodule(inspect.currentframe())\nfound = [has_compiler()]",
    "bits": (
        "before = [stepped(name) for name in NAMES]\nconfig = torch._dynamo.config\nspare_compiler()\n"
        "found = [has_compiler(), before == [stepped(name) for name in NAMES], sys.modules[COMPILER].config is config]"
    ),
    "marks": "found = [torch.compile(lambda: stepped('sgd'), backend='eager')() == stepped('sgd')]",
} | {
    name: (
        f"before = has_compiler()\n{asked}\nmodule = sys.modules[COMPILER]\n"
        "found = [before, has_compiler(), torch._dynamo is module, type(module).__name__]"
    )
    for name, asked in ASKED.items()
}
PROGRAM = """
import json, os, sys, torch
from fedmb.training.optimizer_choice import optimizer_of
from fedmb.training.uncompiled import COMPILER, backward_from, spare_compiler

NAMES = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lars", "lamb")

def has_compiler():
    return bool({"torch._dynamo.eval_frame", "sympy"} & sys.modules.keys())

def stepped(name):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = optimizer_of(name, model.parameters(), learning_rate=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        backward_from(model(torch.ones(4, 3)).square().sum(1), torch.full((4,), 0.25))
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return [parameter.tolist() for parameter in model.parameters()]

torch.set_num_threads(1)
stepped("sgd")
for name, script in json.loads(sys.argv[1]).items():
    if not os.fork():
        exec(script)
        print(json.dumps([name, found]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def found():
    """What each script found."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = dict(map(json.loads, done.stdout.splitlines()))
    assert answers.keys() == SCRIPTS.keys(), done.stderr
    return answers


def test_neither_optimizers_nor_backward_passes_import_the_compiler(found):
    assert found["steps"] == [False]


def test_looking_at_every_module_imports_no_compiler(found):
    assert found["looks"] == [False]


def test_steps_have_the_same_bits_once_the_compiler_is_there_and_it_stays(found):
    assert found["bits"] == [True, True, True]


@pytest.mark.parametrize("asked", ASKED)
def test_whoever_asks_for_the_compiler_gets_it(asked, found):
    assert found[asked] == [False, True, True, "module"]


def test_methods_of_an_optimizer_are_marked_for_the_compiler_that_came_later(found):
    assert found["marks"] == [True]


class Marked(torch.Tensor):
    """A kind of tensor that torch is asked about itself."""


@pytest.mark.parametrize("kind", [torch.Tensor, Marked])
def test_a_backward_pass_from_a_vector_has_the_bits_of_torchs_own(kind):
    found = []
    for start in (backward_from, torch.autograd.backward):
        rows = torch.linspace(-1, 2, 12).view(4, 3).requires_grad_()
        start(rows.exp().sum(1).as_subclass(kind), torch.tensor([0.5, 0.25, 0.0, 3.0]))
        found.append(rows.grad)

    assert torch.equal(*found)
