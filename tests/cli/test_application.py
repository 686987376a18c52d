"""The verbs, as a person finds them."""

from importlib import import_module
from pathlib import Path

import fedmb
from fedmb.cli import main
from fedmb.cli.application import GROUPS, VERBS

CLI = Path(fedmb.__file__).parent / "cli"
PARTS = {"__init__", "application", "failure"}


def test_help_lists_the_verbs(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS if (CLI / f"{verb}.py").exists())
    assert all(verb in shown for verb in GROUPS)


def test_help_of_a_verb_lists_the_words_that_may_follow(capsys):
    for verb in GROUPS:
        assert main([verb, "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words_of(verb))


def words_of(verb):
    """Words of a verb, each with its module's name, where there is one."""
    names = {word: word.replace("-", "_") for word in GROUPS[verb]}
    return {word: name for word, name in names.items() if (CLI / verb / f"{name}.py").exists()}


def test_no_verb_at_all_is_a_question_for_help(capsys):
    assert main([]) == 2
    assert "Usage: fedmb" in "".join(capsys.readouterr())


def test_version_is_data_on_stdout(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{fedmb.__version__}\n"


def test_every_verb_says_what_it_does():
    for verb in VERBS:
        if (CLI / f"{verb}.py").exists():
            assert getattr(import_module(f"fedmb.cli.{verb}"), verb).__doc__
    for verb in GROUPS:
        for name in words_of(verb).values():
            assert getattr(import_module(f"fedmb.cli.{verb}.{name}"), name).__doc__
