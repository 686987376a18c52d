"""A refusal travels as a sentence that a client, and Flower itself, can read."""

import pytest
from flwr.supercore.error import FlowerError

from fedmb.access.refusal import STATUS, Reason, Refused, refused_by


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refusal_comes_back_from_its_bytes(reason):
    found = refused_by(Refused(reason, 'rule "x", value; way out').body)

    assert (found.reason, found.sentence) == (reason, 'rule "x", value; way out')
    assert found.status == STATUS[reason] >= 400


def test_flower_prints_the_sentence():
    assert FlowerError.from_json(Refused(Reason.NO_KEY, "give a key").body.decode()).message == "give a key"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"reason": "other", "detail": ""}', b'{"detail": 1}']
)
def test_another_answer_is_no_refusal(body):
    assert refused_by(body) is None
