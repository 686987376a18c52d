"""What the guides to training show must be what happens."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

GUIDES = Path(__file__).resolve().parents[1] / "docs" / "guide"
PAGES = ("forever.md", "training.md", "gradient.md", "norm-layers.md")


@pytest.fixture(autouse=True)
def _generators_are_put_back():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_prints_what_the_page_says(page):
    snippets = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", (GUIDES / page).read_text(), re.DOTALL)
    names = {}

    assert len(snippets) == (GUIDES / page).read_text().count("```python")
    for code, expected in snippets:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, page, "exec"), names)  # noqa: S102  # our own page
        assert printed.getvalue().strip() == expected.strip()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (GUIDES / page).read_text()):
        assert (GUIDES / target).exists()
