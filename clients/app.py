"""What Flower runs on a client, in a new process for each message: hand it to the resident trainer, or learn here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flwr.clientapp import ClientApp

from fedmb.federation.client_tally import tallied
from fedmb.federation.node_note import note_node
from fedmb.federation.trainer_call import reply_through
from fedmb.telemetry.log_lines import show_log_lines

if TYPE_CHECKING:
    from flwr.app import Context, Message

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one message; `fedmb client` writes the files that the node's configuration names."""
    show_log_lines()
    directory = Path(str(context.node_config["settings"])).parent
    note_node(directory, context.node_id)
    trainer = context.node_config.get("trainer")  # absent where settings want none
    if trainer is None:
        return tallied(directory, lambda: alone(message, context))
    code = Path(__file__).resolve().parents[1]
    return tallied(
        directory, lambda: reply_through(Path(str(trainer)), message, lambda: alone(message, context), code=code)
    )


@app.query()
def begin(message: Message, context: Context) -> Message:
    """Build the model that a run begins with, which a server without torch asks for, once."""
    from fedmb.federation.client_settings import ClientSettings
    from fedmb.federation.deployed_client import begun
    from fedmb.federation.initial_model import answer_to
    from fedmb.settings import load

    show_log_lines()
    file = Path(str(context.node_config["settings"]))
    note_node(file.parent, context.node_id)
    settings = load(ClientSettings, file=file)
    return answer_to(message, lambda beginning: begun(settings, beginning), client=settings.name)


def alone(message: Message, context: Context) -> Message:
    """Learn in this process: the same bits, once torch and all else are imported."""
    from fedmb.federation.client import reply_to
    from fedmb.federation.client_settings import ClientSettings
    from fedmb.federation.residual import Residual
    from fedmb.launch.device_ranks import learn
    from fedmb.settings import load

    settings = load(ClientSettings, file=Path(str(context.node_config["settings"])))
    residual = Residual(settings.directory)
    return reply_to(message, lambda instruction: learn(settings, instruction), client=settings.name, residual=residual)
