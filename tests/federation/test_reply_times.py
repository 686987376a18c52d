import logging
import math

import pytest

from fedmb.federation.reply_times import FILE, ReplyTimes


def times(file=None, **changes):
    told = {"medians": 4.0, "least": 1.0, "most": 100.0, **changes}
    return ReplyTimes(told["medians"], told["least"], told["most"], file)


def observed(one, **replies):
    for client, seconds in replies.items():
        for each in seconds:
            one.observe(client, each)
    return one


def test_a_round_waits_for_the_slowest_that_it_asks():
    one = observed(times(), a=[2.0] * 3, b=[5.0] * 3, c=[9.0] * 3)

    assert one.wait_seconds(["a", "b"]) == 20.0
    assert one.wait_seconds(["a"]) == 8.0


def test_a_round_waits_no_shorter_and_no_longer_than_the_bounds():
    one = observed(times(), quick=[0.01], slow=[60.0])

    assert one.wait_seconds(["quick"]) == 1.0
    assert one.wait_seconds(["slow"]) == 100.0


def test_who_never_replied_is_waited_for_like_the_others_and_alone_until_the_deadline():
    one = observed(times(), a=[2.0])

    assert one.wait_seconds(["a", None, "new"]) == 8.0
    assert one.wait_seconds([None, "new"]) == 100.0
    assert one.wait_seconds([]) == 100.0


def test_one_slow_reply_is_believed_at_once_and_one_quick_one_is_not():
    slow = observed(times(), a=[1.0] * 8 + [20.0])
    quick = observed(times(), a=[20.0] * 8 + [1.0])

    assert slow.usual("a") == quick.usual("a") == 20.0
    assert observed(slow, a=[1.0]).usual("a") == 1.0  # what came once is not usual


def test_without_a_limit_in_medians_every_round_waits_until_the_deadline(tmp_path):
    one = observed(times(tmp_path / FILE, medians=math.inf), a=[2.0])
    one.keep()

    assert one.wait_seconds(["a"]) == 100.0
    assert not (tmp_path / FILE).exists()


def test_a_process_that_follows_waits_alike(tmp_path):
    first = observed(times(tmp_path / FILE), a=[2.0, 3.0], b=[0.5] * 20)
    first.keep()
    second = times(tmp_path / FILE)

    for clients in (["a"], ["b"], ["a", "b"]):
        assert second.wait_seconds(clients) == first.wait_seconds(clients)


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"a": 7}', b"\xff\xfe"])
def test_times_that_cannot_be_read_are_learnt_anew(tmp_path, caplog, damage):
    (tmp_path / FILE).write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        one = times(tmp_path / FILE)

    assert one.wait_seconds(["a"]) == 100.0
    assert "reply times forgotten" in caplog.text


def test_names_without_end_do_not_fill_the_memory():
    one = times()
    for number in range(10_050):
        one.observe(f"client-{number}", 1.0)

    assert sum(one.usual(f"client-{number}") is not None for number in range(10_050)) == 10_000
