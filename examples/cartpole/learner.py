"""A learner as a process: draws what actors append to a served table, and stores a model after each stretch.

    python examples/cartpole/learner.py --source "replay://127.0.0.1:8400/site-0?prioritizes=true" --run runs/cartpole

No federation here: one learner, whose models actors read from the same folder (`actor.py --run`). It learns until
SIGTERM, and goes on from its newest model when it is started again.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cartpole import CartPole, Policy, mean_return

from fedmb import Training
from fedmb.errors import NotEnoughData
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import trainer_for
from fedmb.training.device import computing
from fedmb.training.parameters import initial_arrays

NAME = "learner"
EVALUATED_EVERY = 5  # models between two looks at how well they play


def main() -> int:
    """Learn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200, help="steps between two models")
    parser.add_argument("--models", type=int, default=0, help="end after so many; 0 for none")
    parser.add_argument("--beat", type=Path, help="file to touch after each model, for who watches")
    chosen = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    training = Training.plain(batch_size=64, steps=chosen.steps, learning_rate=5e-4, optimizer="adam")
    settings = ClientSettings(
        name=NAME, source=chosen.source, task="cartpole:CartPole", state=chosen.run / "state", training=training
    )
    models = chosen.run / "checkpoints"
    state = checkpoint.newest(models) or ServerState(0, initial_arrays(CartPole(), chosen.seed), seed=chosen.seed)
    with computing(threads=1, repeatable=True):
        trainer = trainer_for(settings, seed=chosen.seed)
        with closing(trainer.source):
            while not stop.is_set() and not 0 < chosen.models <= state.version:
                position = state.positions.get(NAME, {})
                try:
                    update = trainer.run(state.arrays, base_version=state.version, position=position)
                except NotEnoughData as error:
                    print(f"waiting: {error}", flush=True)
                    continue
                if not update.weight:
                    continue
                state = replace(
                    state, version=state.version + 1, arrays=update.arrays, positions={NAME: update.positions[NAME]}
                )
                checkpoint.save(models, state)
                if chosen.beat is not None:
                    chosen.beat.touch()
                if state.version % EVALUATED_EVERY == 0:
                    print(f"model {state.version}: mean return {mean_return(Policy(state.arrays)):.1f}", flush=True)
    print(f"learnt {state.version} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
