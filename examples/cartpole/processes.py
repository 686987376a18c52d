"""Federated Q-learning on CartPole as processes: actors, a replay service, learners and a server.

    actor ──► table site-0 ──► fedmb client site-0 ─┐
                  (one replay service)              ├─► fedmb server ──► checkpoints ──► both actors
    actor ──► table site-1 ──► fedmb client site-1 ─┘

    python examples/cartpole/processes.py                 # until solved: mean return 475 over 100 greedy episodes
    python examples/cartpole/processes.py --rounds 3      # to see the parts work together

Learners are Flower clients; what they learn from never leaves their machine, and a limiter keeps actors and learners in
step. Everything that is started here ends with this process.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from cartpole import DISCOUNT, ENVIRONMENTS, NUM_STEPS, SOLVED, Policy, mean_return

from fedmb.errors import FedmbError
from fedmb.federation import checkpoint
from fedmb.launch.child import Child

SITES = ("site-0", "site-1")
SERVICE = f"""
port = 0

[tables.NAME]
capacity = 20000
sampler = {{ kind = "prioritized", alpha = 0.2, beta = 0.6 }}
limiter = {{ samples_per_insert = 32.0, min_size = 1000, error_buffer = 8000.0 }}
reader = {{ kind = "n_step", length = {NUM_STEPS}, discount = {DISCOUNT}, num_streams = {ENVIRONMENTS} }}

[tables.NAME.columns]
observation = "float32[4]"
action = "int64"
reward = "float32"
next_observation = "float32[4]"
terminated = "bool"
truncated = "bool"
"""
SERVER = """
task = "cartpole:CartPole"

[rounds]
count = ROUNDS
min_clients = 2

[training]
steps = STEPS
optimizer = "adam"

[training.sizing]
size = 64

[training.learning_rate]
rate = 0.0005
"""
START_SECONDS = 240.0


class Program:
    """A program below this process, with its log in a file."""

    def __init__(self, place: Path, name: str, *command: str) -> None:
        self.log_file = place / f"{name}.log"
        paths = os.pathsep.join(filter(None, [str(HERE), os.getenv("PYTHONPATH")]))
        # More threads of NumPy's products than cores wait for each other: several programs share this machine.
        environment = {"OPENBLAS_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": paths}
        self._log = self.log_file.open("wb")
        self._child = Child([sys.executable, *command], environment=environment, output=self._log)

    def logged(self, text: str) -> str:
        """The word behind `text` in the log, once it is there."""
        deadline = time.monotonic() + START_SECONDS
        while text not in (log := self.log_file.read_text(errors="replace")):
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise FedmbError(f"{self.log_file} must say {text!r}, it says: {log[-2000:]}")
            time.sleep(0.1)
        return log.partition(text)[2].split()[0]

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._child.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()
        self._log.close()


def run(place: Path, *, rounds: int, steps: int) -> tuple[int, float]:
    """Play and learn; answers the last version of the model, and its mean return."""
    tables = SERVICE.partition("[tables")
    content = tables[0] + "".join((tables[1] + tables[2]).replace("NAME", site) for site in SITES)
    (place / "service.toml").write_text(content)
    (place / "server.toml").write_text(SERVER.replace("ROUNDS", str(rounds)).replace("STEPS", str(steps)))
    with ExitStack() as programs:

        def start(name: str, *command: str) -> Program:
            return programs.enter_context(Program(place, name, *command))

        serving = start("service", "-m", "fedmb", "replay", "serve", "--config", str(place / "service.toml"))
        replay = serving.logged("service ready address=")
        directory = place / "run"
        told = ["--config", str(place / "server.toml"), "--run-dir", str(directory), "--port", "0"]
        server = start("server", "-m", "fedmb", "server", *told)
        address = server.logged("server listening address=")
        for number, site in enumerate(SITES):
            about = ["--address", replay, "--table", site, "--run", str(directory), "--seed", str(number)]
            start(f"actor-{site}", str(HERE / "actor.py"), *about)
            source = f"replay://{replay}/{site}?prioritizes=true"
            client = ["--name", site, "--source", source, "--server", address, "--state", str(place / site)]
            start(f"client-{site}", "-m", "fedmb", "client", "--task", "cartpole:CartPole", *client)
        return watched(directory, server)


def watched(directory: Path, server: Program) -> tuple[int, float]:
    """Evaluate each new model until one solves the task or the server ends."""
    version, value = 0, 0.0
    while True:
        has_ended = server.poll() is not None
        found = checkpoint.generations(directory / "checkpoints")
        if found and found[-1][0] > version:
            state = checkpoint.newest(directory / "checkpoints")
            version, value = state.version, mean_return(Policy(state.arrays))
            print(f"round {version}: mean return {value:.1f}", flush=True)
        if has_ended or value >= SOLVED:
            return version, value
        time.sleep(0.2)


def main() -> int:
    """Run until solved or out of rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=500, help="steps of each learner in a round")
    parser.add_argument("--place", type=Path, help="folder for settings, logs and checkpoints")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedmb-cartpole-") as made:
        place = chosen.place or Path(made)
        place.mkdir(parents=True, exist_ok=True)
        version, value = run(place, rounds=chosen.rounds, steps=chosen.steps)
        for site in SITES:
            print(f"{site}: {(place / f'actor-{site}.log').read_text().strip()}")
    said = "solved" if value >= SOLVED else "not solved"
    print(
        f"{said} after {version} rounds and {time.monotonic() - began:.0f} s: mean return {value:.1f} of 100 episodes"
    )
    return 0 if value >= SOLVED else 1


if __name__ == "__main__":
    sys.exit(main())
