"""The page of settings is made from the classes that hold them."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Lt
from pydantic import Field

from fedmb.section import Section
from fedmb.settings.reference import COMMANDS, page, rule_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"


class Inner(Section):
    """As a table of settings."""


@pytest.mark.parametrize(
    ("annotation", "metadata", "rule"),
    [
        (int, [Ge(1)], "whole number, 1 or more"),
        (float, [Ge(0), Lt(1)], "number, 0 or more and below 1"),
        (bool, [], "true or false"),
        (Path | None, [], "path"),
        (int | Literal["auto"] | None, [], "whole number or `auto`"),
        (Literal["wait", "drop_oldest"], [], "one of `wait`, `drop_oldest`"),
        (tuple[Annotated[int, Field(ge=1)], ...], [], "list of whole number, 1 or more"),
        (dict[int, float], [], "table, whole number = number"),
        (Inner, [], "table"),
    ],
)
def test_a_rule_reads_as_a_sentence(annotation, metadata, rule):
    assert rule_of(annotation, metadata) == rule


def test_every_command_has_its_own_defaults():
    server, client = (page().partition(f"## fedmb {verb}\n")[2].partition("\n## ")[0] for verb in ("server", "client"))

    assert "| `training.steps` | `20.0` |" in server
    assert "| `training.steps` | `10.0` |" in client


def test_every_setting_says_what_it_is():
    lines = [line for line in page().splitlines() if line.startswith("| `")]

    assert len(lines) > 50 * len(COMMANDS) / 2
    assert not [line for line in lines if line.endswith("|  |")]


def test_the_page_in_the_repository_is_the_one_that_the_classes_give():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make reference`"
