"""Settings come from four places; the later one wins, and what is wrong is named."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.settings import load


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Training(Section):
    steps: int = Field(default=10, ge=1, le=100)
    rate: float = 0.1


class Table(Section):
    kind: Literal["table"] = "table"
    path: Path = Path("rows.npz")


class Stream(Section):
    kind: Literal["stream"] = "stream"
    linger_seconds: float = 1.0


class Run(Section):
    seed: int = 0
    name: str = "run"
    fast: bool = False
    budget: float = math.inf
    colour: Colour = Colour.RED
    sizes: tuple[int, ...] = (1, 2)
    training: Training = Training(rate=0.5)
    source: Annotated[Table | Stream, Field(discriminator="kind")] = Table()
    clients: dict[str, Training] = Field(default_factory=dict)
    stages: list[Training] = Field(default_factory=list)
    evaluation: Training | None = None

    @field_validator("seed")
    @classmethod
    def check_seed(cls, value):
        if value == 13:
            raise SettingsError("a seed must bring luck, got 13; take 7")
        return value


@pytest.fixture
def toml(tmp_path):
    def write(text):
        file = tmp_path / "run.toml"
        file.write_text(text)
        return file

    return write


def complaint(**places):
    with pytest.raises(SettingsError) as caught:
        load(Run, **places)
    return caught.value


def test_nothing_given_is_the_default():
    assert load(Run) == Run()


def test_a_later_place_wins(toml):
    file = toml("seed = 1\nname = 'file'\nbudget = 1.0\n[training]\nsteps = 1")
    environ = {"FEDMB_NAME": "environment", "FEDMB_BUDGET": "2.0", "FEDMB_TRAINING__STEPS": "2", "HOME": "/"}

    run = load(
        Run,
        file=file,
        environ=environ,
        overrides=["budget=3.0", "training.steps=3"],
        explicit={"training.steps": 4, "seed": None},
    )

    assert (run.seed, run.name, run.budget, run.training.steps) == (1, "environment", 3.0, 4)


def test_one_key_given_keeps_what_the_owner_chose_for_the_rest():
    assert load(Run, overrides=["training.steps=3"]).training == Training(steps=3, rate=0.5)


def test_another_kind_of_section_replaces_the_default_whole():
    assert load(Run, overrides=["source.kind=stream"]).source == Stream()


def test_one_key_of_the_default_kind_is_enough():
    assert load(Run, overrides=["source.path=other.npz"]).source == Table(path=Path("other.npz"))


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("name=bare", "name", "bare"),
        ("name=table:rows.npz", "name", "table:rows.npz"),
        ('name="3"', "name", "3"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("name=1\nseed = 2", "name", "1\nseed = 2"),
        ("fast=true", "fast", True),
        ("budget=inf", "budget", math.inf),
        ("budget=3", "budget", 3.0),
        ("colour=blue", "colour", Colour.BLUE),
        ("sizes=[3, 4]", "sizes", (3, 4)),
        ("clients.a.steps=3", "clients", {"a": Training(steps=3)}),
        ("stages=[{ steps = 3 }]", "stages", [Training(steps=3)]),
        ("evaluation.steps=3", "evaluation", Training(steps=3)),
        (" seed = 3 ", "seed", 3),
    ],
)
def test_an_override_is_read_as_toml_and_a_bare_word_as_a_string(override, name, value):
    assert getattr(load(Run, overrides=[override]), name) == value


def test_an_unknown_key_names_its_section_its_place_and_the_nearest_known_one(toml):
    file = toml("[training]\nstepz = 3")

    error = complaint(file=file)

    assert error.key == "training.stepz"
    assert str(error) == (
        f"section [training] has no setting training.stepz, got it from {file}; did you mean training.steps?"
    )


def test_an_unknown_key_like_no_other_lists_the_known_ones():
    error = complaint(overrides=["training.zzz=3"])

    assert str(error).endswith("known there: rate, steps")


def test_an_unknown_variable_is_named():
    error = complaint(environ={"FEDMB_TRAINING__RATES": "3"})

    assert "from FEDMB_TRAINING__RATES; did you mean training.rate?" in str(error)


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        ("source.pth=x", "source.pth", "source.path"),
        ("clients.a.stepz=3", "clients.a.stepz", "clients.a.steps"),
        ("stages=[{}, { stepz = 3 }]", "stages.1.stepz", "stages.1.steps"),
        ("evaluation.stepz=3", "evaluation.stepz", "evaluation.steps"),
    ],
)
def test_an_unknown_key_is_found_below_unions_lists_and_mappings(override, key, near):
    error = complaint(overrides=[override])

    assert error.key == key
    assert str(error).endswith(f"did you mean {near}?")


def test_a_key_of_another_kind_is_not_suggested():
    error = complaint(overrides=["source.kind=stream", "source.pat=x"])

    assert str(error).endswith("known there: kind, linger_seconds")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.steps=1000", "training.steps must be less than or equal to 100, got 1000; change it in --set "),
        ("seed=true", "seed must be a valid integer, got True; change it in --set seed=true"),
        ('seed="5"', "seed must be a valid integer, got '5'; change it in --set"),
        ("name=5", "name must be a valid string, got 5; change it in --set name=5"),
        ("seed.x=5", "seed must be a valid integer, got {'x': 5}; change it in --set seed.x=5"),
        ("training=5", "training must be a table, got 5; change it in --set training=5"),
        ("source.kind=log", "source breaks a rule, input tag 'log' found using 'kind' does not match any"),
        ("seed=13", "seed: a seed must bring luck, got 13; take 7"),
        ("seed", "an override is written a.b=value, got 'seed'; put = between key and value"),
    ],
)
def test_a_wrong_value_is_said_as_rule_value_and_way_out(override, sentence):
    assert str(complaint(overrides=[override])).startswith(sentence)


def test_every_mistake_is_listed_first_one_first(toml):
    error = complaint(file=toml("colour = 'green'\nseed = 1.5\n[training]\nsteps = 0\nrates = 1"))

    assert error.key == "seed"
    assert [line.split()[0] for line in str(error).splitlines()] == ["seed", "colour", "training.steps", "section"]


def test_a_missing_value_says_where_to_add_it():
    class Needy(Section):
        url: str

    with pytest.raises(SettingsError, match=r"url must be given, got nothing; add url = \.\.\. to the top level"):
        load(Needy)


def test_broken_toml_names_file_and_line(toml):
    file = toml("seed = 1\nname = run\n")

    error = complaint(file=file)

    assert str(error).startswith(f"settings file {file}, line 2, must be TOML: ")


def test_a_file_that_is_not_there_is_named(tmp_path):
    error = complaint(file=tmp_path / "none.toml")

    assert (
        str(error)
        == f"settings file {tmp_path / 'none.toml'} cannot be read: No such file or directory; check the path"
    )


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "run.toml"
    file.write_bytes(b"name = '\xff'")

    assert f"settings file {file} must be UTF-8" in str(complaint(file=file))


def test_a_section_never_changes():
    with pytest.raises(ValueError, match="frozen"):
        Run().seed = 3


def test_a_rule_between_settings_is_said_without_a_key():
    class Pair(Section):
        low: int = 0
        high: int = 1

        @model_validator(mode="after")
        def check_order(self):
            if self.low > self.high:
                raise ValueError(f"low must not exceed high, got {self.low} and {self.high}; raise high")
            return self

    with pytest.raises(SettingsError, match="settings: low must not exceed high, got 5 and 1; raise high") as caught:
        load(Pair, overrides=["low=5"])

    assert caught.value.key is None


def test_a_choice_among_values_keeps_what_the_owner_chose_for_the_rest():
    class Optimizing(Section):
        name: Literal["sgd", "adam"] = "sgd"
        rate: float = 0.1

    class Whole(Section):
        optimizing: Optimizing = Optimizing(rate=0.7)

    assert load(Whole, overrides=["optimizing.name=adam"]).optimizing == Optimizing(name="adam", rate=0.7)
