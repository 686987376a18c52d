"""Digits with a network that has batch norm and dropout, and a rule for the latter."""

from torch import nn

from fedmb.tasks.digits import Digits


class NormedDigits(Digits):
    """Named in settings as `normed_digits:NormedDigits`."""

    def build_model(self):
        return nn.Sequential(
            nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 16), nn.Linear(16, 10)
        )


def halved(rows, as_built):
    """Named in settings as `normed_digits:halved`."""
    return as_built / 2
