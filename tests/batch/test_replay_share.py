"""A replayed share that changes while rows are taken, with and without batches made ahead."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.prefetch import Prefetch
from fedmb.batch.replay_share import ReplayShare, SharesReplay, replay_share
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.replay.blend import Blend
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay

WINDOW = 64


def blend(share=0.5, path=None):
    fresh = TableSource({"y": np.arange(1000)}, seed=2, client="a")
    ring = Ring.mapped(path, fresh.schema, 600) if path else Ring.in_memory(fresh.schema, 600)
    return Blend(fresh, UniformReplay(ring, WINDOW, seed=2, client="a"), share)


def taken(source, *, size=8):
    batch = source.take(size)
    return batch.origins.get("replay", 0), batch.columns["y"].tolist()


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_share_changes_with_the_next_batch_and_goes_back(depth):
    source = Prefetch(blend(), depth) if depth else blend()
    for _ in range(10):
        source.take(8)
    replayed = []
    for share in (0.125, 0.75, 0.0, 0.5):
        source.change_replay_share(share)
        replayed += [taken(source)[0] for _ in range(2)]
    source.close()

    assert replayed == [1, 1, 6, 6, 0, 0, 4, 4]


steps = st.lists(st.one_of(st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.just("back")), max_size=40)


@settings(deadline=None, max_examples=40)
@given(steps, st.integers(1, 4))
def test_any_sizes_shares_and_seeks_give_the_rows_of_the_bare_source(steps, depth):
    bare, ahead = blend(), Prefetch(blend(), depth)
    mark = bare.position()
    for step in steps:
        if step == "back":
            bare.seek(mark)
            ahead.seek(mark)
        elif isinstance(step, float):
            mark = json.loads(json.dumps(bare.position()))
            bare.change_replay_share(step)
            ahead.change_replay_share(step)
        else:
            assert taken(ahead, size=step) == taken(bare, size=step)
        assert ahead.position() == bare.position()
        assert ahead.replay_share == bare.replay_share
    ahead.close()


def test_the_same_share_again_drops_nothing_that_lies_ready():
    source = Prefetch(blend(), 2)
    source.take(8)
    source.change_replay_share(0.5)
    source.take(8)
    dropped = source.statistics().dropped
    source.close()

    assert dropped == 0


def test_a_position_brings_its_share_with_it_into_a_new_process(tmp_path):
    first = blend(path=tmp_path / "ring")
    for _ in range(10):
        first.take(8)
    first.change_replay_share(0.25)
    first.take(8)
    position = json.loads(json.dumps(first.position()))
    whole = [taken(first) for _ in range(5)]
    first.close()

    resumed = blend(path=tmp_path / "ring")
    resumed.seek(position)

    assert resumed.replay_share == ReplayShare(0.5, 0.25)
    assert [taken(resumed) for _ in range(5)] == whole
    resumed.seek({})
    assert resumed.replay_share == ReplayShare(0.5, 0.5)
    resumed.close()


def test_rows_are_remembered_while_none_is_replayed():
    source = blend()
    source.change_replay_share(0.0)
    for _ in range(4):
        source.take(8)
    source.change_replay_share(0.5)

    assert taken(source)[0] == 4


def test_what_does_not_replay_has_no_share():
    table = TableSource({"y": np.arange(9)}, seed=0, client="a")

    assert replay_share(table) is None
    assert replay_share(blend(0.0)) is None
    assert replay_share(Prefetch(table)) is None
    assert replay_share(Prefetch(blend())) == (0.5, 0.5)
    assert isinstance(blend(), SharesReplay)


def test_impossible_changes_are_refused():
    with pytest.raises(SettingsError, match="0 to below 1, got 1"):
        blend().change_replay_share(1.0)
    with pytest.raises(SettingsError, match="make it with a share"):
        blend(0.0).change_replay_share(0.5)
    with pytest.raises(SettingsError, match="in a Blend"):
        Prefetch(TableSource({"y": np.arange(9)}, seed=0, client="a")).change_replay_share(0.5)
    for position in ({"share": 1.0}, {"share": "half"}, {"share": -0.5}):
        one = blend()
        with pytest.raises(ValueError, match="a blend's position must be"):
            one.seek({**one.position(), **position})
    with pytest.raises(ValueError, match="a blend's position must be"):
        blend(0.0).seek({**blend(0.0).position(), "share": 0.5})
