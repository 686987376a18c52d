import copy

import pytest
import torch
from torch import nn

from fedmb.errors import SettingsError
from fedmb.training.microbatch import saved_bytes
from fedmb.training.norm import GhostNorm, ghost_norm
from fedmb.training.recompute import checkpointed


def block():
    return nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.3))


def network(depth=8):
    torch.manual_seed(0)
    return nn.Sequential(*(block() for _ in range(depth)))


def learnt(model, batches=2):
    """Gradients and state after some batches, and the bytes kept for backward of the last."""
    torch.manual_seed(1)
    for _ in range(batches):
        x = torch.randn(64, 32, requires_grad=True)
        with saved_bytes(model) as count:
            loss = model(x).square().mean()
        loss.backward()
    return [parameter.grad for parameter in model.parameters()], model.state_dict(), count[0]


def test_the_gradient_is_the_same_bit_for_bit_and_memory_falls():
    plain, _, plain_bytes = learnt(network())
    again, _, bytes_kept = learnt(checkpointed(network(), segments=4))
    print(f"saved for backward: {plain_bytes:,} bytes plain, {bytes_kept:,} in 4 segments")

    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert bytes_kept < plain_bytes / 4


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, GhostNorm])
@pytest.mark.parametrize("chosen", ["the norms", "names", "segments", "all"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_updated_once(norm, chosen, momentum):
    def build():
        model = network(4)
        for each in model:
            each[1].momentum = momentum
        return ghost_norm(model, 9) if norm is GhostNorm else model  # 64 rows leave a lone one

    chosen = {
        "the norms": {"blocks": [norm]},
        "names": {"blocks": ["1", "3.1"]},
        "segments": {"segments": 3},
        "all": {},
    }[chosen]
    plain, expected, _ = learnt(build(), batches=2)
    again, state, _ = learnt(checkpointed(build(), **chosen), batches=2)

    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert state["0.1.num_batches_tracked"] == (2 * 7 if norm is GhostNorm else 2)


def test_named_blocks_alone_forget():
    _, _, some = learnt(checkpointed(network(), ["0", "1"]))
    _, _, plain = learnt(network())
    _, _, every = learnt(checkpointed(network(), [str(index) for index in range(8)]))

    assert every < some < plain


def test_a_copy_of_a_checkpointed_model_learns_its_own_weights():
    model = checkpointed(network(2), ["0"], segments=2)
    twin = copy.deepcopy(model)
    learnt(twin)

    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_evaluation_is_untouched():
    model = network(2).eval()
    x = torch.randn(4, 32)
    expected = model(x)

    with torch.inference_mode():
        assert torch.equal(checkpointed(model)(x), expected)


def test_blocks_that_do_not_exist_or_cannot_be_cut_are_refused():
    with pytest.raises(SettingsError, match="name or type of a layer, got 'encoder'"):
        checkpointed(network(1), ["encoder"])
    with pytest.raises(SettingsError, match="got 'LSTM'"):
        checkpointed(network(1), [nn.LSTM])
    with pytest.raises(SettingsError, match=r"cut into 2 segments, got Linear"):
        checkpointed(network(1), ["0.0"], segments=2)
    with pytest.raises(SettingsError, match="cut into 9 segments"):
        checkpointed(network(8), segments=9)
