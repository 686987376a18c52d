"""What Flower runs on a client, in a new process for each message: read the settings, learn, reply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flwr.clientapp import ClientApp

from fedmb.federation.client import reply_to
from fedmb.federation.deployed_client import ClientSettings
from fedmb.federation.residual import Residual
from fedmb.launch.device_ranks import learn
from fedmb.settings import load
from fedmb.telemetry.log_lines import show_log_lines

if TYPE_CHECKING:
    from flwr.app import Context, Message

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one message; `fedmb client` writes the settings file that the node's configuration names."""
    show_log_lines()
    settings = load(ClientSettings, file=Path(str(context.node_config["settings"])))
    residual = Residual(settings.directory)
    return reply_to(message, lambda instruction: learn(settings, instruction), client=settings.name, residual=residual)
