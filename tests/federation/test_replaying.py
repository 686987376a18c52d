import numpy as np
import pytest

from fedmb.batch.rows import Rows
from fedmb.batch.table import TableSource
from fedmb.errors import AlreadyOwned, CorruptRing, SettingsError
from fedmb.federation.replaying import Replaying
from fedmb.replay.blend import Blend
from fedmb.tasks.digits import Digits
from fedmb.training.distributed import Ranks
from fedmb.training.told_source import ToldSource

FILES = {
    "newest": "replay.ring",
    "reservoir": "reservoir.ring",
    "balanced": "balanced.ring",
    "prioritized": "replay.ring",
}


class Unlabelled:
    schema = Digits.schema


def blended(state, memory="newest", **settings):
    source = TableSource(Digits().train_rows(), seed=0, client="a")
    return Replaying(memory=memory, **{"window": 100, **settings}).blended(
        source, Digits(), client="a", seed=0, state=state
    )


@pytest.mark.parametrize("memory", FILES)
def test_each_memory_blends_and_has_a_file_of_its_own(tmp_path, memory):
    source = blended(tmp_path, memory)
    for _ in range(3):
        source.take(16)
    position = source.position()

    assert isinstance(source, Blend)
    assert position["appended"] == (48 if memory == "prioritized" else 32)  # which waits for losses before it replays
    assert (tmp_path / FILES[memory]).exists()
    assert (ToldSource.around(source, source, Ranks()) is not None) == (memory == "prioritized")
    with pytest.raises(AlreadyOwned):
        blended(tmp_path, memory)
    source.close()


def test_losses_are_kept_beside_the_rows(tmp_path):
    source = blended(tmp_path, "prioritized")
    source.take(16)
    source.hear(0, np.ones(16, np.float32))
    name = source.position()["losses"]
    source.close()

    assert (tmp_path / "losses" / name).exists()


def test_without_a_share_nothing_is_remembered(tmp_path):
    source = blended(tmp_path, "balanced", share=0.0)

    assert isinstance(source, TableSource)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("before", FILES)
@pytest.mark.parametrize("after", FILES)
def test_another_memory_may_be_chosen_between_two_rounds(tmp_path, before, after):
    one = blended(tmp_path, before)
    for _ in range(5):
        one.take(16)
    position = one.position()
    one.close()

    other = blended(tmp_path, after)
    other.seek(position)

    assert other.position()["fresh"] == position["fresh"]
    assert other.take(16).origins["private"] >= 8
    other.close()


def test_a_balanced_memory_needs_a_label(tmp_path):
    balanced = Replaying(memory="balanced")
    balanced.check_against(Digits(), Rows())
    Replaying(memory="reservoir").check_against(Unlabelled(), Rows())
    Replaying(memory="balanced", share=0).check_against(Unlabelled(), Rows())

    with pytest.raises(SettingsError, match="needs a task with a label, Unlabelled has none") as refusal:
        balanced.check_against(Unlabelled(), Rows())
    assert refusal.value.key == "replay.memory"


def test_rows_drawn_by_loss_are_not_made_ahead():
    for memory in ("newest", "reservoir", "balanced"):
        Replaying(memory=memory).check_against(Digits(), Rows(prefetch=2))
    with pytest.raises(SettingsError, match="known after the step") as refusal:
        Replaying(memory="prioritized").check_against(Digits(), Rows(prefetch=2))
    assert refusal.value.key == "rows.prefetch"


@pytest.mark.parametrize("wrong", [{"alpha": 0.5}, {"beta": 1.0, "memory": "balanced"}, {"memory": "oldest"}])
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValueError, match=r"goes with memory prioritized|newest"):
        Replaying(**wrong)


def test_a_memory_that_cannot_be_had_gives_the_stream_back(tmp_path):
    closed = []
    source = TableSource(Digits().train_rows(), seed=0, client="a")
    source.close = lambda: closed.append(True)
    (tmp_path / "reservoir.ring").write_bytes(b"something else")

    with pytest.raises(CorruptRing, match="must begin as a ring does"):
        Replaying(memory="reservoir").blended(source, Digits(), client="a", seed=0, state=tmp_path)
    assert closed == [True]
