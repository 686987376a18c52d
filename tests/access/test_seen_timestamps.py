"""No signed timestamp comes in twice, in bounded memory."""

import datetime as dt
import random

import pytest

from fedmb.access import seen_timestamps
from fedmb.access.refusal import Reason, Refused
from fedmb.access.seen_timestamps import SeenTimestamps

OPENED = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def at(microseconds):
    return OPENED + dt.timedelta(microseconds=microseconds)


def reason_of(seen, key, when):
    with pytest.raises(Refused) as caught:
        seen.note(key, when)
    return caught.value.reason


def test_whatever_came_in_never_comes_in_again(monkeypatch):
    monkeypatch.setattr(seen_timestamps, "MEMORY", 50)
    seen, order = SeenTimestamps(OPENED), [at(one) for one in range(1, 2001)]
    generator = random.Random(3)
    for start in range(0, 2000, 5):  # requests of one node overtake each other a little
        part = order[start : start + 5]
        generator.shuffle(part)
        order[start : start + 5] = part

    for when in order:
        seen.note(b"ward", when)

    assert all(reason_of(seen, b"ward", when) is Reason.REPLAY for when in order)
    heap, known = seen._seen[b"ward"]
    assert len(heap) == len(known) == 50


def test_nodes_do_not_disturb_each_other():
    seen = SeenTimestamps(OPENED)
    seen.note(b"ward", at(1))

    seen.note(b"meter", at(1))

    assert reason_of(seen, b"meter", at(1)) is Reason.REPLAY


def test_what_was_signed_before_the_door_opened_may_come_later():
    seen = SeenTimestamps(OPENED)

    assert reason_of(seen, b"ward", at(0)) is Reason.EARLY
    assert reason_of(seen, b"ward", at(-300)) is Reason.EARLY
