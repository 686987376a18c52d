import threading

import numpy as np

from fedmb.replay.writers import MAX_WRITERS, WINDOW, Writers


def take(writers, name, sequence):
    with writers.turn(name) as turn:
        if (known := turn.known(sequence, 1)) is not None:
            return known.tolist()
        turn.taken(sequence, np.array([1000 + sequence]))
    return None


def test_an_insert_that_comes_twice_is_known_with_its_ids():
    writers = Writers()

    assert take(writers, "a", 1) is None
    assert take(writers, "a", 2) is None
    assert take(writers, "b", 1) is None
    assert take(writers, "a", 1) == [1001]


def test_ids_are_forgotten_before_the_insert_is():
    writers = Writers()
    for sequence in range(1, WINDOW + 3):
        take(writers, "a", sequence)

    assert take(writers, "a", 2) == [-1]
    assert take(writers, "a", 3) == [1003]


def test_an_insert_that_was_refused_may_come_again():
    writers = Writers()
    for sequence in (1, 2, 4, 5):  # the third was refused
        take(writers, "a", sequence)

    assert take(writers, "a", 3) is None
    assert take(writers, "a", 3) == [1003]
    assert take(writers, "a", 6) is None


def test_the_writer_that_was_silent_for_longest_is_forgotten():
    writers = Writers()
    for number in range(MAX_WRITERS):
        take(writers, str(number), 1)
    take(writers, "0", 2)
    take(writers, "new", 1)

    assert take(writers, "0", 1) == [1001]
    assert take(writers, "1", 1) is None


def test_two_connections_of_one_writer_take_turns():
    writers, inside, kept = Writers(), threading.Event(), []

    def second():
        inside.wait()
        kept.append(take(writers, "a", 1))

    other = threading.Thread(target=second)
    other.start()
    with writers.turn("a") as turn:
        inside.set()
        assert turn.known(1, 1) is None
        turn.taken(1, np.array([7]))
    other.join()

    assert kept == [[7]]
