"""Flower's programs are the same and import less; each is asked in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedmb.federation import flower_programs
from fedmb.federation.flower_programs import SUBMODULES, program


def said(lines, *arguments):
    command = [sys.executable, "-c", "\n".join(lines), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", SUBMODULES)
def test_a_program_takes_the_words_of_flowers_own(name):
    lines = ["import sys", "from fedmb.federation.flower_programs import program", f"sys.argv[0] = {name!r}"]
    flowers = subprocess.run(
        [Path(sys.executable).with_name(name), "--help"], capture_output=True, text=True, check=True
    )

    assert said([*lines, f"program({name!r})()"], "--help") == flowers.stdout
    assert f"usage: {name}" in flowers.stdout


SPARED = {
    "flwr-clientapp": "sqlalchemy",
    "flower-superexec": "sqlalchemy",
    "flower-supernode": "sqlalchemy flwr.supernode.cli.flwr_clientapp httpx._main",
    "flower-superlink": "sqlalchemy flwr.superlink.cli.flwr_serverapp httpx._main",
    "flwr-serverapp": "sqlalchemy flwr.superlink.cli.flower_superlink",
}


@pytest.mark.parametrize("name", SUBMODULES)
def test_it_imports_nothing_that_it_does_not_use_and_collects_garbage_as_before(name):
    lines = [
        "import gc, sys",
        "from fedmb.federation.flower_programs import program",
        f"program({name!r})",
        f"print(*(one for one in {SPARED[name].split()} if sys.modules.get(one)))",
        "print(gc.isenabled(), gc.get_freeze_count() > 10_000)",
    ]

    assert said(lines) == "\nTrue True\n"


def test_who_opens_a_database_gets_flowers_own(tmp_path):
    lines = [
        "import sys",
        "from fedmb.federation.flower_programs import program",
        "program('flower-superlink')",
        "from flwr.supercore.object_store import ObjectStoreFactory",
        "from flwr.server.superlink.linkstate import LinkStateFactory",
        "from flwr.superlink.federation import NoOpFederationManager",
        f"objects = ObjectStoreFactory({str(tmp_path / 'objects.db')!r})",
        f"links = LinkStateFactory({str(tmp_path / 'links.db')!r}, NoOpFederationManager(), objects)",
        "for one in (objects.store(), links.state()): print(type(one).__module__, type(one).__name__)",
        "from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState as its_own",
        "print(its_own is type(links.state()))",
    ]

    assert said(lines).splitlines() == [
        "flwr.supercore.object_store.sql_object_store SqlObjectStore",
        "flwr.server.superlink.linkstate.sql_linkstate SqlLinkState",
        "True",
    ]
    assert (tmp_path / "links.db").stat().st_size > 0


@pytest.mark.parametrize(("asked", "answer"), [("SqlCoreState", "type"), ("nothing", "AttributeError")])
def test_who_asks_a_module_that_was_put_off_for_more_gets_it(asked, answer):
    lines = [
        "from fedmb.federation.flower_programs import program",
        "program('flower-superlink')",
        "from flwr.server.superlink.linkstate import sql_linkstate",
        f"try: print(type(sql_linkstate.{asked}).__name__.removesuffix('Meta').replace('ABC', 'type'))",
        "except AttributeError: print('AttributeError')",
    ]

    assert said(lines) == f"{answer}\n"


@pytest.mark.parametrize("place", [("fake_flower", "missing"), ("fake_flower", "moved")])
def test_where_flower_has_no_such_module_its_package_is_asked(place, tmp_path, monkeypatch):
    (tmp_path / "fake_flower").mkdir()
    (tmp_path / "fake_flower" / "__init__.py").write_text("def missing():\n    return 5\nmoved = missing\n")
    (tmp_path / "fake_flower" / "moved.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(flower_programs, "SUBMODULES", {"it": place})
    monkeypatch.delitem(sys.modules, "fake_flower", raising=False)

    assert program("it")() == 5
    del sys.modules["fake_flower"]
