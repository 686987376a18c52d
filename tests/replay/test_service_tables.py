import math

import pytest
from replay_service import numbered

from fedmb.errors import AlreadyOwned, CorruptSnapshot
from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.n_step import NStep
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.recency import Recency
from fedmb.replay.remover import Fifo, Lifo
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.service_section import ReaderSection, RemoverSection, ReplayServe, SamplerSection
from fedmb.replay.service_tables import opened, reader_of, remover_of, sampler_of
from fedmb.replay.trajectory import Windows
from fedmb.replay.uniform_sampler import Uniform
from fedmb.replay.without_replacement import WithoutReplacement

COLUMNS = {"x": "float32[5]", "number": "int64", "done": "bool"}


def settings(place, **changes):
    table = {"columns": COLUMNS, "capacity": 100, **changes}
    return ReplayServe(tables={"default": table}, snapshots={"folder": place / "snapshots"})


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("uniform", Uniform),
        ("prioritized", Prioritized),
        ("recency", Recency),
        ("without_replacement", WithoutReplacement),
    ],
)
def test_every_sampler_can_be_had(kind, found):
    assert type(sampler_of(SamplerSection(kind=kind))) is found


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("fifo", Fifo),
        ("lifo", Lifo),
        ("lowest_priority", LowestPriority),
        ("reservoir", Reservoir),
        ("class_balanced", ClassBalanced),
    ],
)
def test_every_remover_can_be_had(kind, found):
    label = "y" if kind == "class_balanced" else None

    assert type(remover_of(RemoverSection(kind=kind, label=label))) is found


def test_every_reader_can_be_had():
    assert reader_of(ReaderSection()) is None
    assert type(reader_of(ReaderSection(kind="windows", length=3, ends=("done",)))) is Windows
    assert type(reader_of(ReaderSection(kind="n_step", length=3))) is NStep


def test_a_table_in_memory_goes_on_from_its_snapshot(tmp_path):
    with opened(settings(tmp_path)) as tables:
        tables["default"].table.append(numbered(0, 30))
        tables["default"].snapshot()
        expected = tables["default"].table.sample(9)

    with opened(settings(tmp_path)) as tables:
        assert (tables["default"].table.sample(9).ids == expected.ids).all()
        assert tables["default"].is_stored


def test_a_table_in_a_folder_goes_on_from_there(tmp_path):
    asked = settings(tmp_path, folder=tmp_path / "rows")
    with opened(asked) as tables:
        tables["default"].table.append(numbered(0, 30))
        tables["default"].snapshot()
        with pytest.raises(AlreadyOwned), opened(asked):
            pass

    with opened(asked) as tables:
        assert len(tables["default"]) == 30
    assert not (tmp_path / "snapshots").exists()


def test_a_limiter_is_made_as_it_is_told(tmp_path):
    asked = settings(tmp_path, limiter={"samples_per_insert": 3, "min_size": 5, "error_buffer": 100})
    with opened(asked) as tables:
        found = tables["default"].table.statistics().limiter

    assert (found.min_difference, found.max_difference) == (-85, 115)
    with opened(settings(tmp_path, limiter={"min_size": 5})) as tables:
        assert tables["default"].table.statistics().limiter.max_difference == math.inf


def test_snapshots_that_are_all_damaged_are_said(tmp_path):
    place = tmp_path / "snapshots" / "default"
    place.mkdir(parents=True)
    (place / "snapshot-000001-00000000.safetensors").write_bytes(b"nonsense")

    with pytest.raises(CorruptSnapshot), opened(settings(tmp_path)):
        pass
