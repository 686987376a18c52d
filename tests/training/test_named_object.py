import math

import pytest

from fedmb.errors import SettingsError
from fedmb.training.named_object import check_code, named_object


def test_a_name_stands_for_what_its_module_holds():
    assert named_object("math:sqrt", key="training.dropout", example="a:b") is math.sqrt


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sqrt", "training.dropout must be written module:name, got 'sqrt'; for example a:b"),
        ("math:", "must be written module:name"),
        ("math:sqroot", "training.dropout must be importable, got 'math:sqroot'"),
        ("no.such.module:rule", "or set PYTHONPATH"),
    ],
)
def test_a_name_that_stands_for_nothing_says_so(name, sentence):
    with pytest.raises(SettingsError, match=sentence) as refused:
        named_object(name, key="training.dropout", example="a:b")
    assert refused.value.key == "training.dropout"


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        ({"optimizer": "adam", "dropout": None}, {}),
        ({"optimizer": "torch.optim:NAdam"}, {"optimizer": "sgd"}),
        ({"dropout": "mine:rule"}, {"dropout": "mine:rule"}),
    ],
)
def test_a_server_chooses_among_words_torch_and_what_the_client_names(asked, own):
    check_code(asked, own)


@pytest.mark.parametrize(
    "asked", [{"optimizer": "subprocess:Popen"}, {"dropout": "os:kill"}, {"optimizer": "torch.optimized:A"}]
)
def test_other_code_is_not_run_for_a_server(asked):
    with pytest.raises(SettingsError, match="runs code that it names itself"):
        check_code(asked, {"optimizer": "sgd", "dropout": "mine:rule"})
