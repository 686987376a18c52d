"""What a deployed round costs on loopback: Flower's own FedAvg app and ours, one after the other; and our duty cycle.

    python benchmarks/round.py [--rounds 4] [--steps 20] [--turns 1] [--only rounds|alone|duty] [--json PATH]

Two nodes, each Flower's real processes, a perceptron of 9,610 parameters on digits, batches of 32, one thread each.
`flower` is benchmarks/flower-app, an app as Flower's users write them, with Flower's settings as they come; `ours` is
`fedmb server` and two `fedmb client`, with their resident trainers. A round is timed from the end of the one before, so
the first, which waits for programs to start, is left out. `ours, no trainer` starts a process for each message as
`flower` does (--set resident=false), so it shows what the trainer is worth.

The duty cycle is the part of its time that a trainer computes, as its log lines say: with every step of a round taken
while messages travel (training.overlap_steps = training.steps), and as many of them as take --seconds here, alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

# This folder goes last, since files of clients' names lie in it.
sys.path.append(sys.path.pop(0))
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fedmb.batch.table import TableSource
from fedmb.launch import commands
from fedmb.launch.child import Child
from fedmb.launch.endpoint import Listen, Server, usable_port
from fedmb.settings.toml import value_text
from fedmb.tasks.digits import Digits
from fedmb.training.device import computing
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

NODES = 2
MOST_OF_FLOWER = 0.6  # of Flower's round
LEAST_DUTY = 0.95
START_SECONDS = 120.0
PROBE_STEPS = 2000  # half a second: enough to know a step's time by a tenth
WARM = 2  # answers of a trainer that are left out: it starts, and has taken no step ahead before the first


def write_rows(place: Path) -> list[Path]:
    """One table for each node."""
    import numpy as np

    rows = Digits().train_rows()
    files = [place / f"rows-{node}.npz" for node in range(NODES)]
    for node, file in enumerate(files):
        np.savez(file, **{name: array[node::NODES] for name, array in rows.items()})
    return files


def flower_rounds(place: Path, rows: list[Path], rounds: int, steps: int) -> list[float]:
    """Seconds of each round but the first, of the plain app."""
    home, times = place / "flower", place / "times"
    home.mkdir()
    # Ours polls five times as often; Flower's app is to be as its users have it.
    environment = commands.environment(home) | {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1.0"}
    listen = Listen("127.0.0.1", usable_port("127.0.0.1", 0))
    (home / "config.toml").write_text(f'[superlink.bench]\naddress = "{listen.own_address}"\ninsecure = true\n')
    run = home / "run.toml"
    run.write_text(f'num-rounds = {rounds}\nsteps = {steps}\ntimes = "{times}"\n')
    with ExitStack() as running, (place / "flower.log").open("wb") as log:

        def start(command: list[str]) -> Child:
            return running.enter_context(Child(command, environment=environment, output=log))

        start(commands.superlink(listen.host, listen.port, commands.executable("flower-superlink")))
        until(lambda: healthy(listen.own_address), "the SuperLink")
        for node, file in enumerate(rows):
            config = home / f"node-{node}.toml"
            config.write_text(f"rows = {value_text(file)}\n")
            port = usable_port("127.0.0.1", 0)
            program = commands.executable("flower-supernode")  # Flower's own, not what ours are started by
            start(commands.supernode(Server(listen.own_address), port=port, node_config=config, program=program))
        app = str(ROOT / "benchmarks" / "flower-app")
        start([commands.executable("flwr"), "run", app, "bench", "--run-config", str(run)])
        until(
            lambda: times.exists() and len(times.read_text().split("\n")) > rounds + 1, "Flower's rounds", 60 * rounds
        )
    ended = [float(line.split()[1]) for line in times.read_text().splitlines()]  # round 0 is before the first
    return [after - before for before, after in pairwise(ended[1:])]


def our_run(place: Path, rows: list[Path], rounds: int, train: dict[str, object], *, resident: bool = True) -> str:
    """The server's log, with the clients' behind it."""
    told = [part for name, value in train.items() for part in ("--set", f"training.{name}={value}")]
    port = usable_port("127.0.0.1", 0)
    server = fedmb(
        place, "server", "--rounds", rounds, "--min-clients", NODES, "--run-dir", "run", "--port", port, *told
    )
    clients = [
        fedmb(
            place,
            *("client", "--server", f"127.0.0.1:{port}", "--name", f"node-{node}", "--source", f"table:{file}"),
            *("--set", f"resident={str(resident).lower()}"),
        )
        for node, file in enumerate(rows)
    ]
    server.wait()
    for client in clients:
        client.send_signal(signal.SIGTERM)
        client.wait()
    return "".join(file.read_text() for file in sorted(place.glob("*.log")))


def fedmb(place: Path, verb: str, *arguments: object) -> subprocess.Popen[bytes]:
    """`fedmb VERB`, its log in a file of the place."""
    name = arguments[arguments.index("--name") + 1] if "--name" in arguments else verb
    with (place / f"{name}.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603  # a list of our own making, no shell
            [sys.executable, "-m", "fedmb", verb, *map(str, arguments)],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def our_rounds(place: Path, rows: list[Path], rounds: int, steps: int, *, resident: bool) -> list[float]:
    train = {"steps": steps, "sizing.size": 32, "learning_rate.rate": 0.2}
    log = our_run(place, rows, rounds, train, resident=resident)
    ended = [
        time.mktime(time.strptime(day, "%Y-%m-%d %H:%M:%S")) + int(thousandths) / 1000
        for day, thousandths in re.findall(r"^(.{19}),(\d{3}) round closed", log, re.MULTILINE)
    ]
    return [after - before for before, after in pairwise(ended)]


def duty_cycle(place: Path, rows: list[Path], rounds: int, seconds: float) -> dict[str, Any]:
    """The share of its time that each trainer computes, with whole rounds taken ahead."""
    steps = steps_in(seconds)
    train = {"steps": steps, "overlap_steps": steps, "sizing.size": 32, "learning_rate.rate": 0.02}
    log = our_run(place, rows, rounds, train)
    shares: dict[str, list[float]] = {}
    for name, share in re.findall(r"trainer answered client=(\S+) busy=(\S+)", log):
        shares.setdefault(name, []).append(float(share))
    return {"steps": steps, "duty": {name: found[WARM:] for name, found in shares.items()}}


def steps_in(seconds: float) -> int:
    """Steps that a trainer takes in so long, on this machine when nothing else runs."""
    training = Training.plain(batch_size=32, steps=PROBE_STEPS, learning_rate=0.02)
    source = TableSource(Digits().train_rows(), seed=0, client="a")
    local = LocalUpdate(Digits(), source, training, client="a", seed=0)
    with computing(threads=1, repeatable=True):
        update = local.run(initial_arrays(Digits(), 0), base_version=0, position={})
    return int(PROBE_STEPS / update.sums["seconds"] * seconds)


def healthy(address: str) -> bool:
    try:
        with urlopen(f"http://{address}/health", timeout=1) as answer:
            return answer.status == 200  # noqa: PLR2004  # HTTP's "OK"
    except OSError:
        return False


def until(condition, what: str, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not come within {seconds:g} s")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round, for the duty cycle")
    parser.add_argument("--only", choices=["rounds", "alone", "duty"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="fedmb-round-") as folder:
        place = Path(folder)
        rows = write_rows(place)

        def fresh(name: str) -> Path:
            made = place / name
            made.mkdir()
            return made

        if options.only in {None, "rounds"}:
            seconds: dict[str, list[float]] = {"flower": [], "ours": []}
            for turn in range(options.turns):
                at = fresh(f"turn-{turn}")
                seconds["flower"] += flower_rounds(at, rows, options.rounds, options.steps)
                seconds["ours"] += our_rounds(at, rows, options.rounds, options.steps, resident=True)
            found["rounds"] = seconds
            show(seconds)
        if options.only in {None, "alone"}:
            alone = our_rounds(fresh("alone"), rows, options.rounds, options.steps, resident=False)
            found["alone"] = alone
            print(f"{'ours, no trainer':18} {spread(alone)}")
        if options.only in {None, "duty"}:
            found["duty"] = duty = duty_cycle(fresh("duty"), rows, options.rounds + 1, options.seconds)
            shares = [one for each in duty["duty"].values() for one in each]
            print(f"duty cycle of {duty['steps']} steps a round: median {median(shares):.3f}, least {min(shares):.3f}")
            print(f"target >= {LEAST_DUTY:.2f}: {'met' if median(shares) >= LEAST_DUTY else 'missed'}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def spread(seconds: list[float]) -> str:
    return f"{median(seconds):6.2f} s a round, {min(seconds):.2f} to {max(seconds):.2f} in {len(seconds)}"


def show(seconds: dict[str, list[float]]) -> None:
    for name, found in seconds.items():
        print(f"{name:18} {spread(found)}")
    ratio = median(seconds["ours"]) / median(seconds["flower"])
    print(f"ours / flower {ratio:.2f}, target <= {MOST_OF_FLOWER}: {'met' if ratio <= MOST_OF_FLOWER else 'missed'}")


if __name__ == "__main__":
    main()
