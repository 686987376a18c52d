"""CartPole as a fedmb task, learnt by double Q-learning, and actors that play it.

The target network is a part of the model and follows the online one every `TARGET_STEPS` steps. A round has as many
steps, so each round begins with the average of all sites as its target: that is where federated Q-learning and plain
Q-learning meet.

Source: van Hasselt et al. 2016, "Deep Reinforcement Learning with Double Q-learning", arXiv:1509.06461.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmb import Column
from fedmb.replay import VectorRecorder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.replay.vector_env import Destination
    from fedmb.update import Arrays

ENVIRONMENT, SOLVED = "CartPole-v1", 475.0
TARGET_STEPS = 100
DISCOUNT, NUM_STEPS = 0.99, 3
ENVIRONMENTS, LEAST_EPSILON = 8, 0.04  # of an actor
ROWS = {
    "observation": Column("float32", (4,)),
    "action": Column("int64"),
    "reward": Column("float32"),
    "next_observation": Column("float32", (4,)),
    "terminated": Column("bool"),
    "truncated": Column("bool"),
}
"""What an actor appends."""


class QNetwork(nn.Module):
    """Values of both actions, with the target network and a count of the steps since it followed."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def follow(self) -> None:
        """Count a step; every `TARGET_STEPS`-th begins with the online network as the target."""
        if int(self.steps) % TARGET_STEPS == 0:
            self.target.load_state_dict(self.online.state_dict())
        self.steps += 1


class CartPole:
    """The task: rows drawn from a replay table with n-step returns, a Huber loss of each row."""

    schema = {**ROWS, "discount": Column("float32")}

    def build_model(self) -> nn.Module:
        """A fresh network."""
        return QNetwork()

    def forward(self, model: QNetwork, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Value of each action taken, and what it should have been."""
        values = model.online(rows["observation"]).gather(1, rows["action"][:, None])[:, 0]
        with torch.no_grad():
            model.follow()
            best = model.online(rows["next_observation"]).argmax(1, keepdim=True)
            following = model.target(rows["next_observation"]).gather(1, best)[:, 0]
        return values, rows["reward"] + rows["discount"] * following

    def loss(self, outputs: tuple[Tensor, Tensor], rows: Mapping[str, Tensor]) -> Tensor:
        """Huber loss of each row; also its priority."""
        return functional.smooth_l1_loss(*outputs, reduction="none")

    def metrics(self, outputs: tuple[Tensor, Tensor], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The value of each action taken."""
        return {"value": outputs[0].detach()}


class Policy:
    """Chooses actions by the online network of a model's arrays, in NumPy: an actor needs no torch at play."""

    def __init__(self, arrays: Arrays) -> None:
        names = sorted(name for name in arrays if name.startswith("online"))
        self._layers = [(arrays[f"{name[:-5]}.weight"].T, arrays[name]) for name in names if name.endswith("bias")]

    @classmethod
    def random(cls, seed: int) -> Policy:
        """Of an untrained network, for an actor that has not heard of a model yet."""
        torch.manual_seed(seed)
        return cls({name: tensor.numpy() for name, tensor in QNetwork().state_dict().items()})

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Values of both actions, (environments, 2)."""
        x = observations
        for weight, bias in self._layers[:-1]:
            x = np.maximum(x @ weight + bias, 0)
        weight, bias = self._layers[-1]
        return x @ weight + bias

    def actions(self, observations: np.ndarray, epsilon: float, random: np.random.Generator) -> np.ndarray:
        """The best action of each environment, or with probability `epsilon` any."""
        best = self.values(observations).argmax(1)
        return np.where(random.random(len(best)) < epsilon, random.integers(0, 2, len(best)), best)


class Actor:
    """Plays some environments and records every step."""

    def __init__(self, destination: Destination, *, num_envs: int, seed: int) -> None:
        self._envs = gymnasium.make_vec(ENVIRONMENT, num_envs=num_envs, vectorization_mode="vector_entry_point")
        self._recorder = VectorRecorder.of(self._envs, destination)
        self._random = np.random.default_rng(seed)
        self._observations, _ = self._envs.reset(seed=seed)
        self._recorder.reset(self._observations)

    def play(self, policy: Policy, steps: int, epsilon: float) -> None:
        """Take so many steps in each environment."""
        for _ in range(steps):
            actions = policy.actions(self._observations, epsilon, self._random)
            self._observations, *outcome = self._envs.step(actions)
            self._recorder.step(actions, self._observations, *outcome)

    def close(self) -> None:
        """End the environments; the newest step is recorded."""
        self._recorder.flush()
        self._envs.close()


def mean_return(policy: Policy, *, episodes: int = 100, seed: int = 10_000) -> float:
    """Mean return of the greedy policy over whole episodes, one in each of so many environments."""
    envs = gymnasium.make_vec(ENVIRONMENT, num_envs=episodes, vectorization_mode="vector_entry_point")
    random = np.random.default_rng(seed)
    observations, _ = envs.reset(seed=seed)
    returns, running = np.zeros(episodes), np.ones(episodes, np.bool_)
    while running.any():
        observations, rewards, terminated, truncated, _ = envs.step(policy.actions(observations, 0.0, random))
        returns += rewards * running
        running &= ~(terminated | truncated)
    envs.close()
    return float(returns.mean())
