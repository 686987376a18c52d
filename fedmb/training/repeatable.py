"""What a process must set so that the same steps give the same bits."""

from __future__ import annotations

import torch


def compute_repeatably(*, threads: int) -> None:
    """Let torch sum in one order, in this whole process.

    Args:
        threads: of torch; with another number the last bits of a result may differ.

    An operation that has no repeatable form then raises a RuntimeError instead of giving other bits each time.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
