"""What two bad clients of ten do to the model, by attack, rule and split of the rows: ours and Flower's own.

Digits, ten clients of real mini-batch SGD on an in-process grid, all behind fedmb's guard at the door, which refuses
NaN. A figure is the accuracy on held-out rows after the last round, its mean over the seeds; `clean` has no bad client
at all, `silent` has the honest eight alone.

    make bench-byzantine
    python benchmarks/byzantine.py --rounds 20 --seeds 3 --json byzantine.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from flwr.serverapp import strategy as flowers

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.geometric_median import GeometricMedian
from fedmb.aggregation.krum import MultiKrum, krum
from fedmb.batch.sharding import dirichlet_shares
from fedmb.batch.table import TableSource
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.server import scorer
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.seeding import generator
from fedmb.simulation.attacks import ATTACKS, flipped, with_bad_clients
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flwr.app import Message
    from flwr.serverapp.strategy import Strategy

CLIENTS, BAD, CLASSES = 10, 2, 10
SPLITS = {"iid": 1e6, "Dirichlet 0.5": 0.5}
COLUMNS = ("clean", "silent", *ATTACKS, "label flip")
FLOWER = "Flower "
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "mean": MiniBatchFedAvg,
    "clipped_mean": lambda: MiniBatchFedAvg(ClippedMean()),
    "trimmed_mean": lambda: MiniBatchFedAvg(TrimmedMean(BAD)),
    "median": lambda: MiniBatchFedAvg(Median()),
    "geometric_median": lambda: MiniBatchFedAvg(GeometricMedian()),
    "krum": lambda: MiniBatchFedAvg(krum(BAD)),
    "multi_krum": lambda: MiniBatchFedAvg(MultiKrum(BAD)),
    "multi_krum, odd ones": lambda: MiniBatchFedAvg(MultiKrum(BAD, odd_medians=3.0, mixing=0.3)),
    FLOWER + "FedAvg": flowers.FedAvg,
    FLOWER + "FedMedian": flowers.FedMedian,
    FLOWER + "FedTrimmedAvg": flowers.FedTrimmedAvg,
    FLOWER + "Krum": lambda: flowers.Krum(num_malicious_nodes=BAD),
    FLOWER + "MultiKrum": lambda: flowers.MultiKrum(num_malicious_nodes=BAD, num_nodes_to_select=CLIENTS - BAD),
    FLOWER + "Bulyan": lambda: flowers.Bulyan(num_malicious_nodes=1),  # two would need eleven clients
}


class InOrder(InProcessGrid):
    """Asks nodes in the order of their ids, whatever order a strategy draws: who knows what others sent comes last."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies, in that order."""
        waiting = [(self._pushed[one].metadata.dst_node_id, one) for one in message_ids if one in self._pushed]
        return super().pull_messages([one for _, one in sorted(waiting)])


def trainers(alpha: float, attack: str, seed: int, steps: int) -> dict[str, LocalUpdate]:
    """Ten clients with their shares of the digits; those that flip labels have others' rows turned round."""
    task, rows = Digits(), Digits().train_rows()
    found = {}
    for number, index in enumerate(dirichlet_shares(rows["label"], CLIENTS, alpha, generator(seed, "byzantine"))):
        name, part = f"client-{number}", {column: array[index] for column, array in rows.items()}
        if attack == "label flip" and number >= CLIENTS - BAD:
            part["label"] = flipped(part["label"], CLASSES)
        source = TableSource(part, seed=seed, client=name)
        training = Training.plain(batch_size=32, steps=steps, learning_rate=0.2)
        found[name] = LocalUpdate(task, source, training, client=name, seed=seed)
    return found


def accuracy(make: Callable[[], Strategy], alpha: float, attack: str, seed: int, rounds: int, steps: int) -> float:
    """Accuracy after the last round; the last two clients are the bad ones."""
    clients = trainers(alpha, attack, seed, steps)
    names = list(clients)
    if attack == "silent":
        clients = {name: clients[name] for name in names[:-BAD]}
    else:
        clients = with_bad_clients(clients, names[-BAD:], ATTACKS.get(attack), seed=seed)
    app = client_app(lambda context: clients[context.node_config["client"]])
    grid = InOrder(app, {2 + k: {"client": name} for k, name in enumerate(clients)})
    loop = RoundLoop(grid, make(), Rounds(count=rounds), on_round=lambda *_: None)
    state = loop.run(ServerState(0, initial_arrays(Digits(), seed), seed=seed))
    return scorer(Digits(), {"": Digits().test_rows()})(state)["accuracy"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="of a client in a round")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    table: dict[str, dict[str, list[float]]] = {}
    for split in chosen.splits:
        alpha = SPLITS[split]
        print(f"\n{split}: accuracy, mean of {chosen.seeds} seeds\n| rule | {' | '.join(COLUMNS)} |", flush=True)
        print("|" + "---|" * (len(COLUMNS) + 1))
        for name in chosen.only:
            cells = []
            for attack in COLUMNS:
                values = [
                    accuracy(STRATEGIES[name], alpha, attack, seed, chosen.rounds, chosen.steps)
                    for seed in range(chosen.seeds)
                ]
                table.setdefault(f"{split}/{name}", {})[attack] = values
                cells.append(f"{np.mean(values):.3f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
