"""The shape of the code base, checked like any other behaviour.

Each rule here is stated in docs/ARCHITECTURE.md or docs/STYLE.md; a failure names the file and the rule.
"""

import ast
import os
import re
import resource
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "fedmb"
TEMPLATE = LIBRARY / "cli" / "template"  # for the user to own: no module of the library

# Lowest first. A module may import its own package and anything in a lower row, nothing beside or above it.
LAYERS = (
    {"errors", "seeding", "section", "exit_codes"},
    {"ledger", "arrays"},
    {"telemetry", "batch", "update"},
    {"ingest", "replay", "sizing", "aggregation"},
    {"training"},
    {"tasks"},
    {"access"},
    {"federation"},
    {"simulation"},
    {"settings"},
    {"launch"},
    {"cli"},
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
HOME = {
    "kafka": {"ingest"},
    "torch": {"training", "tasks", "simulation"},
    "flwr": {"federation", "simulation", "access"},
}
PROCESS_FOLDERS = ("clients", "server", "streams")
VAGUE = {"utils", "util", "common", "helpers", "misc", "core", "base", "tools"}
LONGEST_FILE = 300
LONGEST_PROCESS_FILE = 80
HELP_CPU_SECONDS = 0.3
HELP_TO_TYPER = 2.0

MODULES = [path for path in sorted(LIBRARY.rglob("*.py")) if TEMPLATE not in path.parents]
PROCESS_FILES = sorted(path for folder in PROCESS_FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
TEMPLATES = sorted(TEMPLATE.rglob("*.py"))


@cache
def imports(path):
    """Dotted names imported anywhere in the file, function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def none_of(breaches):
    """One test a rule, not one a file: every file that breaks it is named at once."""
    assert not (found := [str(breach) for breach in breaches]), "\n".join(["", *found])


def unit(path):
    """Package or module directly under fedmb/ that owns this file."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def owner(name, modules):
    """Module that holds an imported name: itself a module, or the one that defines it."""
    return name if name in modules else name.rpartition(".")[0]


def test_every_unit_has_a_layer():
    none_of(
        f"{path}: give it a row in LAYERS"
        for path in MODULES
        if unit(path) not in RANK and path.name not in {"__init__.py", "__main__.py"}
    )


def upward(path):
    own = unit(path)
    for name in sorted(imports(path)):
        top, *rest = name.split(".")
        if top in PROCESS_FOLDERS:
            yield f"{path}: the library may not import the process folder {top}/"
        if own not in HOME.get(top, {own}):
            yield f"{path}: {top} belongs to {sorted(HOME[top])}"
        if top == "fedmb" and rest and rest[0] != own and own in RANK and RANK.get(rest[0], -1) >= RANK[own]:
            yield f"{path}: {own} may not import {rest[0]}"


def test_imports_point_downward():
    none_of(breach for path in MODULES for breach in upward(path))


def test_process_folders_hold_small_composition_roots():
    for path in PROCESS_FILES:
        length = len(path.read_text().splitlines())
        own = {path.relative_to(ROOT).parts[0]} if path.name == "__init__.py" else set()
        foreign = (
            {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"fedmb", "flwr"} - own
        )

        assert length <= LONGEST_PROCESS_FILE, f"{path}: {length} lines; an algorithm belongs into fedmb/"
        assert not foreign, f"{path}: a composition root imports fedmb and flwr, got {sorted(foreign)}"


def test_nothing_imports_a_process_folder():
    none_of(
        f"{path}: imports {name}; a process folder holds programs, nothing to import"
        for path in MODULES + TESTS + BENCHMARKS
        for name in sorted(imports(path))
        if name.split(".")[0] in PROCESS_FOLDERS
    )


def test_files_are_small_and_named_for_their_content():
    paths = MODULES + PROCESS_FILES + TESTS + BENCHMARKS + TEMPLATES

    none_of(f"{path}: split it" for path in paths if len(path.read_text().splitlines()) > LONGEST_FILE)
    none_of(f"{path}: name what it holds" for path in paths if path.stem in VAGUE)


def test_modules_say_what_they_are():
    none_of(
        f"{path}: a module opens with a docstring"
        for path in MODULES + PROCESS_FILES + TEMPLATES
        if not ast.get_docstring(ast.parse(path.read_text()))
    )


def test_no_module_cycles():
    # `fedmb` itself stays out: it resolves its public names lazily.
    names = {dotted(path): path for path in MODULES if path != LIBRARY / "__init__.py"}
    graph = {name: {owner(i, names) for i in imports(path)} & names.keys() - {name} for name, path in names.items()}
    done, path = set(), []

    def visit(node):
        if node in path:
            pytest.fail("import cycle: " + " -> ".join([*path[path.index(node) :], node]))
        if node not in done:
            path.append(node)
            for child in sorted(graph[node]):
                visit(child)
            path.pop()
            done.add(node)

    for node in graph:
        visit(node)


def test_importing_fedmb_is_cheap():
    heavy = "{'torch', 'flwr', 'kafka', 'pydantic', 'numpy', 'typer', 'rich'}"
    probe = f"import sys, fedmb, fedmb.cli; print(sorted({heavy} & set(sys.modules)))"

    answer = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def test_building_the_command_line_loads_no_framework():
    heavy = "{'torch', 'flwr', 'kafka', 'pydantic', 'numpy'}"
    probe = (
        f"import sys; from fedmb.cli.application import application; application(); print({heavy} & {{*sys.modules}})"
    )

    answer = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "set()"


def test_help_is_cheap():
    script = Path(sys.executable).with_name("fedmb")
    command = [script] if script.exists() else [sys.executable, "-m", "fedmb"]
    commands = ([*command, "--help"], [sys.executable, "-c", "import typer.main, typer.rich_utils"])
    spent = ([], [])

    for _ in range(5):
        for seconds, one in zip(spent, commands, strict=True):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(one, cwd=ROOT, capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    ours, typers = map(min, spent)

    # A busy machine does not decide: typer and rich alone are slow there too.
    assert ours < max(HELP_CPU_SECONDS, HELP_TO_TYPER * typers), f"CPU seconds of `fedmb --help`: {spent}"


def test_every_public_name_resolves():
    fedmb = import_module("fedmb")

    for name in getattr(fedmb, "__all__", ()):
        assert getattr(fedmb, name) is not None, f"fedmb.__all__ names {name}"


def test_a_test_stands_where_its_source_stands():
    for path in [path for path in TESTS if path.name.startswith("test_")]:
        first, *_ = inside = path.relative_to(ROOT / "tests").parts
        if len(inside) == 1 or not (LIBRARY / first).is_dir():
            continue  # tests of modules at the top, contracts/ and processes/
        source = LIBRARY.joinpath(*inside[:-1], inside[-1].removeprefix("test_"))

        assert source.exists() or source.with_suffix("").is_dir(), (
            f"{path}: mirrors {source.relative_to(ROOT)}, not there"
        )


def test_every_lint_ignore_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    ruff = tomllib.loads(text)["tool"]["ruff"]["lint"]
    rules = {*ruff["ignore"], *(rule for rules in ruff["per-file-ignores"].values() for rule in rules)}

    for rule in rules:
        lines = [line for line in text.splitlines() if f'"{rule}"' in line]
        assert lines, f"{rule} not found in pyproject.toml"
        assert all(re.search(rf'"{rule}".*#\s*\S+', line) for line in lines), f"say why {rule} is ignored"


def test_every_noqa_names_its_rule():
    for path in MODULES + PROCESS_FILES + TEMPLATES:
        for line in path.read_text().splitlines():
            if "# noqa" in line:
                assert re.search(r"# noqa: [A-Z]+\d+", line), f"{path}: {line.strip()}"


def test_make_soak_raises_every_number_that_the_suite_can_be_told():
    told = {path: set(re.findall(r'environ\.get\("FEDMB_([A-Z_]+)", "', path.read_text())) for path in TESTS}
    soak = set(re.findall(r"FEDMB_([A-Z_]+)=", (ROOT / "Makefile").read_text()))

    assert soak == set().union(*told.values())
    for path, names in told.items():
        assert not names or "pytest.mark.soak" in path.read_text(), f"{path}: mark what {sorted(names)} make longer"


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert "make --no-print-directory test" in script.read_text()
