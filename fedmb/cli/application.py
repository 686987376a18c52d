"""The application: which verbs there are."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import click

VERBS = ("simulate", "server", "client", "new", "check", "version")
"""Each is a function of the same name in `fedmb.cli.VERB`."""
GROUPS = {
    "stream": ("run", "feed", "pack", "lag", "inspect", "schema", "replay-dlq"),
    "model": ("list", "show", "export"),
    "replay": ("serve", "inspect"),
    "keys": ("server", "node", "check"),
}
"""Words that may follow a verb; each is a function of the same name in `fedmb.cli.VERB.WORD`."""


def application() -> click.Command:
    """Every verb whose module exists, each under its function's docstring."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_fedmb)  # keeps verbs' names on the command line even while there is one verb
    for verb in VERBS:
        if find_spec(f"fedmb.cli.{verb}"):
            app.command(verb)(getattr(import_module(f"fedmb.cli.{verb}"), verb))
    for group, words in GROUPS.items():
        inner = typer.Typer(no_args_is_help=True)
        for word, name in ((word, word.replace("-", "_")) for word in words):
            if find_spec(f"fedmb.cli.{group}.{name}"):
                inner.command(word)(getattr(import_module(f"fedmb.cli.{group}.{name}"), name))
        app.add_typer(
            inner, name=group, help=(import_module(f"fedmb.cli.{group}").__doc__ or "").partition(":")[0] + "."
        )
    return typer.main.get_command(app)


def _fedmb() -> None:
    """Train one model over private data that stays where it is and streams that never end."""
