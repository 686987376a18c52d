"""What `fedmb client` can be told; read without torch, which only its trainer needs.

The server owns what decides the model: seed, training, positions; they come with each instruction. The client owns
what is its site's business: where its rows come from, how much memory and how many threads a step may use, and how
its stream is cut and replayed; and what of its rows the server may learn.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from fedmb.batch.dataset import DATASET
from fedmb.batch.rows import Rows
from fedmb.federation.client_source import Streaming
from fedmb.federation.label_source import Labels
from fedmb.federation.replaying import Replaying
from fedmb.replay.served_source import REPLAY
from fedmb.section import Section
from fedmb.telemetry.watching_section import Watching
from fedmb.training.client_privacy import ClientPrivacy
from fedmb.training.recipe import Training


class ClientSettings(Section):
    """Everything that `fedmb client` can be told."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the client, its own in the federation: the server keeps the client's position in its data under it."""
    source: str = Field(min_length=1)
    """Where rows come from: table:/x.npz, table:task?share=0&of=4 or dataset:module:Class, or a stream:
    kafka://host:9092/topic, ring:/x.ring (a daemon's) or file:///log?topic=rows; or what actors append to a replay
    service: replay://host:8400/table."""
    task: str = "fedmb.tasks.digits:Digits"
    """What is learnt, written module:Class; the same as the server's."""
    state: Path | None = None
    """Directory of the replay ring and of records that were set aside, the client's own; state/NAME if left out."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch; with another number the last bits of a result may differ."""
    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    devices: int = Field(default=1, ge=1)
    """Devices that step as one: a process for each, with its GPU, or with its threads on the CPU."""
    resident: bool = True
    """Keep a trainer process beside the node, so that torch and the model are not loaded for each message, and one that
    has read Flower; without it each message starts and trains in a process of its own, to the same bits."""
    training: Training = Training()
    """How to train where the server does not say; its micro_size, which only costs, holds in any case."""
    streaming: Streaming = Streaming()
    labels: Labels = Labels()
    replay: Replaying = Replaying()
    rows: Rows = Rows()
    privacy: ClientPrivacy = ClientPrivacy()
    watching: Watching = Watching()

    @model_validator(mode="after")
    def _mixed(self) -> ClientSettings:
        self.rows.check_mixed(sum(one.startswith("table:") for one in self.source.split()))
        return self

    @model_validator(mode="after")
    def _not_one_of_several(self) -> ClientSettings:
        if self.devices > 1 and ":" in self.device:
            raise ValueError(
                f"several devices are cpu, cuda or auto, got devices {self.devices} and device {self.device}; leave "
                "out its number"
            )
        return self

    @model_validator(mode="after")
    def _hidden(self) -> ClientSettings:
        if not self.privacy.is_on:
            return self
        is_stream = not self.source.startswith(("table:", DATASET))
        found = {
            f"devices {self.devices}": self.devices > 1,
            f"labels.source {self.labels.source}": self.labels.source is not None,
            'replay.memory "prioritized"': is_stream and self.replay.memory == "prioritized",
        }
        if self.privacy.unit == "example":
            found[f"replay.share {self.replay.share:g}"] = is_stream and self.replay.share > 0
            found[f"source {self.source}"] = self.source.startswith(REPLAY)
        if wrong := [name for name, is_wrong in found.items() if is_wrong]:
            raise ValueError(
                f"privacy {self.privacy.unit} hides what it can count and noise, got {', '.join(wrong)}; leave that "
                "out (replay.share takes 0), or privacy"
            )
        return self

    @property
    def directory(self) -> Path:
        """Where the client keeps what it needs between messages."""
        return self.state or Path("state") / self.name
