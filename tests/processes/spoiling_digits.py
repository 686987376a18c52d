"""A client's task that learns the digits and spoils what is sent: NaN in round 3, another shape in round 4."""

from dataclasses import replace

import numpy as np

from fedmb.federation import client
from fedmb.tasks.digits import Digits

__all__ = ["Digits"]

SPOILT = {
    2: lambda array: np.full_like(array, np.nan),
    3: lambda array: np.zeros((*array.shape, 2), array.dtype),
}
_send = client.update_to_record


def spoilt(update, *rest):
    """The update's record, with what stands for its version in `SPOILT`."""
    change = SPOILT.get(update.base_version, lambda array: array)
    return _send(replace(update, arrays={name: change(array) for name, array in update.arrays.items()}), *rest)


client.update_to_record = spoilt
