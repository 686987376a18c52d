"""fedmb: federated and online-streaming mini-batch learning on Flower, PyTorch and Kafka.

Public names are resolved on first use, so `import fedmb` loads no torch, flwr or kafka.
"""

from __future__ import annotations

__version__ = "0.1.0"
