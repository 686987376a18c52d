"""Settings: read from all their places into one model, and written back as TOML."""

from __future__ import annotations

from fedmb.settings.layers import load
from fedmb.settings.toml import to_toml

__all__ = ["load", "to_toml"]
