"""Federated Q-learning on CartPole in one process: sites play, remember and learn; a server averages.

    python examples/cartpole/one_process.py --seeds 5            # uniform beside prioritised, for each seed
    python examples/cartpole/one_process.py --sampler uniform --sites 4

Each site has environments and a replay table of its own; only models travel. A run is solved when the mean return of
100 greedy episodes is at least 475 (gymnasium's own threshold), and ends there or with its budget of rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cartpole import (
    DISCOUNT,
    ENVIRONMENTS,
    LEAST_EPSILON,
    NUM_STEPS,
    ROWS,
    SOLVED,
    TARGET_STEPS,
    Actor,
    CartPole,
    Policy,
    mean_return,
)

from fedmb import InProcessGrid, LocalUpdate, MiniBatchFedAvg, RoundLoop, Rounds, Training, client_app
from fedmb.federation.checkpoint import ServerState
from fedmb.replay import NStep, Prioritized, ReplaySource, ReplayTable, Uniform
from fedmb.training.parameters import initial_arrays

if TYPE_CHECKING:
    from fedmb.telemetry.events import RoundReport

CAPACITY, PLAYED = 20_000, 25  # rows of a site, and steps of each of its environments in a round
WARM_ROUNDS, EXPLORING_ROUNDS = 4, 30
EVALUATED_EVERY = 5


class Solved(Exception):  # noqa: N818  # ends the rounds, and is no error
    """The run has reached its aim."""


class Site:
    """Environments, a replay table, and a client that learns from it."""

    def __init__(self, name: str, *, sampler: str, seed: int) -> None:
        # A row's priority is its loss, half the square of its error while that is small: 0.2 of it is 0.4 of the error.
        chosen = Prioritized(alpha=0.2, beta=0.6) if sampler == "prioritized" else Uniform()
        reader = NStep(NUM_STEPS, DISCOUNT, num_streams=ENVIRONMENTS)
        self.table = ReplayTable(ROWS, CAPACITY, sampler=chosen, reader=reader, seed=seed, name=name)
        self.actor = Actor(self.table, num_envs=ENVIRONMENTS, seed=hash_of(name, seed))
        source = ReplaySource(self.table, seed=seed, client=name, prioritizes=sampler == "prioritized")
        training = Training.plain(batch_size=64, steps=TARGET_STEPS, learning_rate=5e-4, optimizer="adam")
        self.trainer = LocalUpdate(CartPole(), source, training, client=name, seed=seed)


def hash_of(name: str, seed: int) -> int:
    """A seed of a site's own."""
    return 1000 * seed + int(name.rpartition("-")[2])


def epsilon(round_: int) -> float:
    """How often an actor tries any action."""
    return max(LEAST_EPSILON, 1 - round_ / EXPLORING_ROUNDS)


def run(*, sampler: str, seed: int, sites: int, rounds: int) -> dict[str, Any]:
    """One run; answers when it was solved, and its returns."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    places = {f"site-{number}": Site(f"site-{number}", sampler=sampler, seed=seed) for number in range(sites)}
    app = client_app(lambda context: places[context.node_config["client"]].trainer)
    grid = InProcessGrid(app, {number + 2: {"client": name} for number, name in enumerate(places)})
    returns: list[tuple[int, float]] = []

    def play(state: ServerState, steps: int) -> None:
        policy = Policy(state.arrays)
        for site in places.values():
            site.actor.play(policy, steps, epsilon(state.version))

    def after(state: ServerState, _: RoundReport) -> None:
        if state.version % EVALUATED_EVERY == 0:
            returns.append((state.version, mean_return(Policy(state.arrays), seed=10_000 + seed)))
            if returns[-1][1] >= SOLVED:
                raise Solved
        play(state, PLAYED)

    state = ServerState(version=0, arrays=initial_arrays(CartPole(), seed=seed))
    play(state, PLAYED * WARM_ROUNDS)
    is_solved = False
    try:
        RoundLoop(grid, MiniBatchFedAvg(seed=seed), Rounds(count=rounds), on_round=after).run(state)
    except Solved:
        is_solved = True
    for site in places.values():
        site.actor.close()
    last, value = returns[-1]
    steps = ENVIRONMENTS * PLAYED * (WARM_ROUNDS + last) * sites
    seconds = round(time.perf_counter() - began, 1)
    return {
        "sampler": sampler,
        "seed": seed,
        "solved": is_solved,
        "round": last,
        "environment_steps": steps,
        "return": value,
        "seconds": seconds,
        "returns": returns,
    }


def main() -> int:
    """Print a line a run, and means and medians of each sampler."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sampler", choices=["uniform", "prioritized"], nargs="+", default=["uniform", "prioritized"])
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    runs = []
    for seed in range(chosen.seeds):
        for sampler in chosen.sampler:
            found = run(sampler=sampler, seed=seed, sites=chosen.sites, rounds=chosen.rounds)
            runs.append(found)
            said = "solved" if found["solved"] else "not solved"
            played = f"{found['environment_steps']:,} steps of the environment, {found['seconds']} s"
            line = f"{sampler:<12} seed {seed}: {said} after {found['round']} rounds, {played}"
            print(f"{line}; mean return {found['return']:.1f}", flush=True)
    for sampler in chosen.sampler:
        ends = [found["round"] for found in runs if found["sampler"] == sampler]
        mean, middle, spread = statistics.mean(ends), statistics.median(ends), f"{min(ends)} to {max(ends)}"
        unsolved = sum(not found["solved"] for found in runs if found["sampler"] == sampler)
        print(
            f"{sampler:<12} {len(ends)} seeds: {mean:.0f} rounds on average, median {middle:.0f} ({spread}); "
            f"{unsolved} not solved, counted with all their rounds"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(runs, indent=2) + "\n")
    return 0 if all(found["solved"] for found in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
