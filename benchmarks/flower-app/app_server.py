"""The server of a plain Flower run: FedAvg as it comes; it notes when each round ended."""

import time
from pathlib import Path

from app_task import build_model
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    times = Path(context.run_config["times"])

    def ended(number: int, _arrays: ArrayRecord) -> MetricRecord:
        with times.open("a") as file:
            file.write(f"{number} {time.time()}\n")
        return MetricRecord({"round": number})

    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0)
    rounds = context.run_config["num-rounds"]
    start = ArrayRecord(build_model().state_dict())
    strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds, evaluate_fn=ended)
