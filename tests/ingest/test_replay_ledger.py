import json
from contextlib import closing

import pytest

from fedmb.errors import AlreadyOwned, VersionMismatch
from fedmb.ingest.memory_log import MemoryLog
from fedmb.ingest.replay_ledger import REPLAYED_HEADER, ReplayLedger


def target(*replayed: str) -> MemoryLog:
    log = MemoryLog()
    with closing(log.writer("t", 0)) as writer:
        for source in replayed:
            writer.append(b"row", {REPLAYED_HEADER: source.encode()} if source else {})
    return log


def test_what_lies_in_the_target_is_found(tmp_path):
    log = target("k/t[0]@5", "", "k/t[0]@6", "nonsense", "k/u[1]@5")
    with ReplayLedger.owned(tmp_path / "l") as ledger, closing(log.reader("t", [0])) as reader:
        ledger.search(reader)

    assert [ledger.holds("k/t[0]", offset) for offset in (4, 5, 6, 7)] == [False, True, True, False]
    assert ledger.holds("k/u[1]", 5)


def test_a_saved_ledger_is_read_back_and_the_target_searched_from_there(tmp_path):
    log = target("k/t[0]@5", "k/t[0]@6")
    with ReplayLedger.owned(tmp_path / "l") as ledger, closing(log.reader("t", [0])) as reader:
        ledger.add("k/t[0]", 9)
        ledger.save(reader)
    log.writer("t", 0).append(b"row", {REPLAYED_HEADER: b"k/t[0]@12"})

    with ReplayLedger.owned(tmp_path / "l") as ledger, closing(log.reader("t", [0])) as reader:
        ledger.search(reader)
        assert [offset for offset in range(20) if ledger.holds("k/t[0]", offset)] == [9, 12]


def test_one_process_replays_at_a_time_and_any_may_look(tmp_path):
    with ReplayLedger.owned(tmp_path / "l") as owned, closing(target().reader("t", [0])) as reader:
        owned.save(reader)
        with pytest.raises(AlreadyOwned), ReplayLedger.owned(tmp_path / "l"):
            pass
        with ReplayLedger.owned(tmp_path / "l", read_only=True) as looking:
            looking.add("k/t[0]", 1)
            looking.save(reader)

    assert json.loads((tmp_path / "l").read_text())["replayed"] == {}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2, "replayed": {}, "searched": {}}', '{"format": 1, "replayed": 5, "searched": {}}'],
)
def test_a_file_that_is_no_ledger_is_refused(tmp_path, content):
    (tmp_path / "l").write_text(content)

    with pytest.raises(VersionMismatch, match="move it away"), ReplayLedger.owned(tmp_path / "l"):
        pass
