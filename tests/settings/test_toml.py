"""What `to_toml` writes, `load` reads back."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.settings import load, to_toml
from fedmb.settings.toml import value_text


class Inner(Section):
    limit: float = math.inf
    """Seconds to wait."""
    words: tuple[str, ...] = ()


class Outer(Section):
    text: str = ""
    """What is said.

    In two paragraphs."""
    count: int = 0
    on: bool = False
    place: Path = Path()
    absent: int | None = None
    numbers: dict[str, float] = Field(default_factory=dict)
    pairs: tuple[tuple[int, str], ...] = ()
    inner: Inner = Inner(words=("default",))
    """The inner part."""
    either: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)


floats = st.floats(allow_nan=False)
inners = st.builds(Inner, limit=floats, words=st.lists(st.text()).map(tuple))
outers = st.builds(
    Outer,
    text=st.text(),
    count=st.integers(-(2**63), 2**63 - 1),
    on=st.booleans(),
    place=st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(Path),
    absent=st.none() | st.integers(),
    numbers=st.dictionaries(st.text(), floats),
    pairs=st.lists(st.tuples(st.integers(), st.text())).map(tuple),
    inner=inners,
    either=st.none() | inners,
    many=st.lists(inners, max_size=3).map(tuple),
    named=st.dictionaries(st.text(), inners, max_size=3),
)


@given(outers)
def test_what_is_written_is_read_back(tmp_path_factory, settings):
    file = tmp_path_factory.getbasetemp() / "round_trip.toml"

    file.write_text(to_toml(settings), encoding="utf-8", newline="")

    assert load(Outer, file=file) == settings


@given(outers)
def test_equal_settings_give_equal_text(settings):
    assert to_toml(settings) == to_toml(settings.model_copy(deep=True))


def test_each_value_stands_under_its_description():
    text = to_toml(Outer(named={"a b": Inner()}))

    assert text.startswith('# What is said.\n#\n# In two paragraphs.\ntext = ""\ncount = 0\n')
    assert '# The inner part.\n[inner]\n# Seconds to wait.\nlimit = inf\nwords = ["default"]\n' in text
    assert '[named."a b"]\n' in text
    assert "absent" not in text


def test_a_field_that_could_not_be_read_back_is_refused():
    class Strange(Section):
        limit: int | None = Field(default=3)

    with pytest.raises(SettingsError, match="limit is None but defaults to something else; make None its default"):
        to_toml(Strange(limit=None))


def test_sets_are_written_sorted():
    assert value_text({"b", "a", "c"}) == '["a", "b", "c"]'


def test_a_value_without_a_toml_form_is_refused():
    with pytest.raises(TypeError, match="got <object"):
        value_text([object()])
