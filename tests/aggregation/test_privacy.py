import math

import numpy as np
import pytest
from pydantic import ValidationError
from stacks import models, stacked, whole

from fedmb.aggregation.privacy import Privacy, PrivateMean
from fedmb.aggregation.stack import Stack

BEFORE = models(1, seed=77)[0]
CLIP, CLIENTS = 2.0, 10


def silent(count):
    return np.zeros(count)


def private(noise=silent, **told):
    return PrivateMean(CLIP, **{"noise_multiplier": 1.0, "clients": CLIENTS, "noise": noise} | told)


def flat(model):
    return np.concatenate([model["w"].ravel(), model["b"].ravel()]).astype(np.float64)


def test_it_is_the_sum_of_shortened_changes_over_a_fixed_number():
    arrays = models(6)
    changes = whole(arrays) - flat(BEFORE)
    shortened = changes * np.minimum(1, CLIP / np.linalg.norm(changes, axis=1))[:, None]

    found = flat(private().combine(stacked(arrays, [1, 100, 3, 4, 5, 6]), BEFORE))
    assert np.allclose(found, flat(BEFORE) + shortened.sum(axis=0) / CLIENTS, atol=1e-6)


def attackers():
    """Updates that a client could make up to move the sum as far as it goes."""
    honest = models(1, seed=5)[0]
    yield {**honest, "w": honest["w"] * np.float32(1e18)}
    yield {**honest, "w": np.full_like(honest["w"], np.finfo(np.float32).max)}
    yield {**honest, "w": -honest["w"] * np.float32(1e3), "b": honest["b"] * np.float32(1e9)}
    yield {**BEFORE, "b": BEFORE["b"] + np.float32(CLIP * 0.999)}
    yield {**BEFORE, "n": np.array(10**12)}


@pytest.mark.parametrize("number", range(5))
def test_no_client_moves_the_model_by_more_than_its_share_of_the_clip(number):
    others, bad = models(4), list(attackers())[number]
    without = private().combine(stacked(others), BEFORE)
    beside = private().combine(stacked([*others, bad], [1, 1, 1, 1, 1e9]), BEFORE)
    moved = np.linalg.norm(flat(beside) - flat(without))

    assert moved <= CLIP / CLIENTS * (1 + 1e-5)
    assert beside["n"] == without["n"] == BEFORE["n"]


def test_the_noise_is_sized_by_the_clip_over_the_clients():
    before = {"w": np.zeros(200_000, np.float32)}
    stack = Stack()
    stack.put("a", before, 1.0)
    random = np.random.default_rng(0)
    found = private(random.standard_normal, noise_multiplier=1.5).combine(stack, before)["w"]

    assert found.std() == pytest.approx(1.5 * CLIP / CLIENTS, rel=0.01)
    assert abs(found.mean()) < 0.01


def test_a_round_without_a_client_is_noised_all_the_same():
    found = private(np.ones).combine(Stack(), BEFORE)

    assert np.allclose(flat(found), flat(BEFORE) + CLIP / CLIENTS, atol=1e-6)


def test_what_is_no_parameter_stays_as_it_was():
    found = private(np.ones, parameters={"w"}).combine(stacked(models(4)), BEFORE)

    assert np.array_equal(found["b"], BEFORE["b"])
    assert not np.array_equal(found["w"], BEFORE["w"])


def test_the_clip_follows_the_quantile_of_lengths():
    rule, lengths = private(quantile=0.5, noise_multiplier=0.5), np.arange(1, CLIENTS + 1)
    for _ in range(200):
        stack = Stack()
        for number, length in enumerate(lengths):
            stack.put(f"client-{number}", {"w": np.full(1, length, np.float32)}, 1.0)
        rule.combine(stack, {"w": np.zeros(1, np.float32)})

    assert 5 <= rule.clip_norm <= 6


def test_one_client_moves_the_count_by_a_half_and_both_noises_together_are_the_multiplier():
    rule = private(quantile=0.5, noise_multiplier=0.9)

    assert (rule.change_multiplier**-2 + (2 * CLIENTS / 20) ** -2) ** -0.5 == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"noise_multiplier": 2.0}, "noise_multiplier is read with clip_norm, got none; set clip_norm"),
        ({"clip_norm": 1.0}, "got clip_norm 1.0 and no clients; set aggregation.privacy.clients"),
        ({"clip_norm": math.inf, "clients": 9}, "clip_norm must be finite, got inf"),
        ({"clip_norm": 1.0, "clients": 9, "quantile_rate": 0.5}, "quantile_rate is read with quantile"),
        ({"clip_norm": 1.0, "clients": 9, "quantile": 0.5}, r"needs a noise_multiplier below 0\.9 with 9 clients"),
    ],
)
def test_what_protects_nobody_is_refused(told, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Privacy(**told)
