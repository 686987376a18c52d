"""A wish to stop reaches the other process by a file, and is given up after its time."""

import contextlib
import threading
import time

from fedmb.federation.drain import Drain, told_to_drain


def test_the_other_process_is_told_and_the_processes_are_left_alone_meanwhile(tmp_path):
    stop = threading.Event()
    with told_to_drain(tmp_path) as told, Drain(tmp_path, stop, 60) as drain:
        drain.has_begun = True
        stop.set()

        assert told.wait(10)
        assert not drain.over.is_set()


def test_who_drained_says_so_and_who_failed_meanwhile_does_not(tmp_path):
    said = []
    for fails in (False, True):
        stop = threading.Event()
        with Drain(tmp_path, stop, 60) as drain, contextlib.suppress(ZeroDivisionError):
            drain.has_begun = True
            stop.set()
            with told_to_drain(tmp_path) as told:
                assert told.wait(10)
                before = drain.has_drained
                said.append(1 // (not fails))
            said.append((before, drain.has_drained))
        said.append(drain.has_drained)

    assert said == [1, (False, True), False, False]
    assert not list(tmp_path.iterdir())


def test_a_round_that_takes_too_long_is_given_up(tmp_path):
    stop = threading.Event()
    stop.set()
    with Drain(tmp_path, stop, 0.05) as drain:
        drain.has_begun = True

        assert drain.over.wait(10)


def test_without_a_round_there_is_nothing_to_wait_for(tmp_path):
    stop = threading.Event()
    with Drain(tmp_path, stop, 3600) as drain:
        stop.set()

        assert drain.over.wait(10)


def test_an_old_wish_is_forgotten(tmp_path):
    (tmp_path / "drain").touch()

    with Drain(tmp_path, threading.Event(), 60), told_to_drain(tmp_path) as told:
        assert not told.wait(0.5)


def test_nothing_of_it_stays_behind(tmp_path):
    before = threading.active_count()
    with Drain(tmp_path, threading.Event(), 60), told_to_drain(tmp_path):
        pass
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)

    assert not list(tmp_path.iterdir())
