"""Small models of many kinds of layers, which give a number for each row."""

import torch
from torch import nn


class Called(nn.Module):
    """A model that is a function of its layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self._function(self, x)


def head(width):
    return nn.Linear(width, 1)


MODELS = {
    "linear": lambda: (nn.Sequential(nn.Linear(6, 5), nn.Tanh(), head(5), nn.Flatten(0)), (6,)),
    "convolution, in-place relu and group norm": lambda: (
        nn.Sequential(
            nn.Unflatten(1, (1, 6, 6)),
            nn.Conv2d(1, 4, 3, padding=1, stride=2),
            nn.GroupNorm(2, 4),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            head(36),
            nn.Flatten(0),
        ),
        (36,),
    ),
    "embedding and layer norm": lambda: (
        Called(
            lambda own, x: own.out(own.norm(own.words(x)).mean(1))[:, 0],
            words=nn.Embedding(9, 6),
            norm=nn.LayerNorm(6),
            out=head(6),
        ),
        None,
    ),
    "a parameter of the model's own": lambda: (
        Called(
            lambda own, x: own.out(torch.tanh(x @ own.weight))[:, 0],
            weight=nn.Parameter(torch.randn(6, 3)),
            out=head(3),
        ),
        (6,),
    ),
    "a layer used twice": lambda: (
        Called(
            lambda own, x: own.out(torch.tanh(own.twice(torch.tanh(own.twice(x)))))[:, 0],
            twice=nn.Linear(6, 6),
            out=head(6),
        ),
        (6,),
    ),
    "one-dimensional convolution and instance norm": lambda: (
        nn.Sequential(
            nn.Unflatten(1, (2, 6)),
            nn.Conv1d(2, 4, 3),
            nn.InstanceNorm1d(4, affine=True),
            nn.Flatten(),
            head(16),
            nn.Flatten(0),
        ),
        (12,),
    ),
}


def built(name, rows=7):
    torch.manual_seed(0)
    model, shape = MODELS[name]()
    x = torch.randint(0, 9, (rows, 4)) if shape is None else torch.randn(rows, *shape)
    return model, {"x": x, "y": torch.randn(rows) * 3}
