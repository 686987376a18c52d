import pytest
from replay_service import SCHEMA, TRANSPORTS, is_whole, numbered, serving

from fedmb.errors import SettingsError
from fedmb.replay.remote import RemoteTable
from fedmb.replay.replay_table import ReplayTable

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


def test_arrays_of_a_sample_can_be_written_and_do_not_change(transport):
    with serving() as service, RemoteTable(service.address, transport=transport, prefetch=2) as table:
        table.append(numbered(0, 100))
        held = [table.sample(10) for _ in range(40)]  # far more than there are slots
        copies = [sample.columns["number"].copy() for sample in held]
        for _ in range(40):
            table.sample(10)

        assert all(is_whole(sample.columns) for sample in held)
        assert all((sample.columns["number"] == copy).all() for sample, copy in zip(held, copies, strict=True))
        held[0].columns["x"][:] = 7
        held[0].ids[:] = 7


def test_sizes_are_prefetched_apart(transport):
    with serving() as service, RemoteTable(service.address, transport=transport) as table:
        table.append(numbered(0, 100))
        sizes = [len(table.sample(size)) for size in (3, 50, 3, 90, 50, 3)]

    assert sizes == [3, 50, 3, 90, 50, 3]


def test_batches_of_sizes_that_are_not_asked_for_any_more_are_dropped(transport):
    with serving() as service, RemoteTable(service.address, transport=transport, prefetch=4) as table:
        table.append(numbered(0, 100))
        for size in range(1, 40):
            assert len(table.sample(size)) == size
        ready = table._puller._ready

        assert len(ready) <= 4
        assert is_whole(table.sample(3).columns)


def test_a_batch_beyond_its_slot_comes_through_the_socket():
    with (
        serving(ReplayTable(SCHEMA, 10_000, name="default")) as service,
        RemoteTable(service.address, transport="shared", prefetch=2) as table,
    ):
        table.append(numbered(0, 9000))
        small = [table.sample(5) for _ in range(3)]
        large = [table.sample(5000) for _ in range(5)]
        again = [table.sample(5) for _ in range(30)]

        assert all(is_whole(sample.columns) for sample in [*small, *large, *again])
        assert service.door.statistics().opened == 3, "one stream each to ask, insert and sample"


def test_a_batch_too_large_for_a_message_is_refused(transport):
    with (
        serving(max_message_bytes=1 << 20) as service,
        RemoteTable(service.address, transport=transport, prefetch=1) as table,
    ):
        table.append(numbered(0, 10))
        with pytest.raises(SettingsError, match="must fit into 1048576 bytes"):
            table.sample(1 << 20)

        assert len(table.sample(5)) == 5
