"""What the process of a door is told: names of files and limits, no secrets."""

from __future__ import annotations

from pathlib import Path  # pydantic reads annotations when it runs

from pydantic import Field

from fedmb.access.door_limits import DoorLimits
from fedmb.section import Section


class DoorPlan(Section):
    """What a door is told when it is started: names of files, no secrets."""

    host: str
    """Address to listen on."""
    port: int = Field(ge=1, le=65535)
    """Port to listen on."""
    certificate: Path
    """PEM certificate that nodes see."""
    key: Path
    """PEM private key."""
    node_keys: Path | None = None
    """Public keys of the nodes that are let in; everybody where there is none."""
    superlink: str
    """URL of the SuperLink on loopback."""
    limits: DoorLimits = DoorLimits()
    """Of sizes and times."""
