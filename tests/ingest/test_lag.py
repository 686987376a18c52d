from contextlib import closing

from numbered_log import filled

from fedmb.ingest.lag import PartitionLag, lags
from fedmb.ledger import Ledger, Position, StreamPartition

FIRST, SECOND, OTHER = (StreamPartition("memory", "t", number) for number in (0, 1, 7))


def test_lag_counts_the_records_behind_the_ledger_one_learnt_in_part_too():
    ledger = Ledger({FIRST: Position(1, 2), OTHER: Position(9)})
    with closing(filled([3, 3, 3], [1, 1]).reader("t", [0, 1])) as reader:
        first, second = lags(reader, ledger)

    assert (first.begin, first.learnt, first.end, first.lag) == (0, Position(1, 2), 3, 2)
    assert (second.begin, second.learnt, second.end, second.lag) == (0, None, 2, 2)
    assert second.to_json() == {
        "partition": "memory/t[1]",
        "begin": 0,
        "learnt": None,
        "end": 2,
        "lag": 2,
        "gone": 0,
    }


def test_records_that_retention_took_before_they_were_learnt_are_named():
    gone = PartitionLag(FIRST, begin=100, learnt=Position(40), end=150)

    assert (gone.lag, gone.gone) == (50, 60)


def test_a_ledger_ahead_of_a_topic_made_anew_has_no_lag():
    assert PartitionLag(FIRST, begin=0, learnt=Position(40), end=3).lag == 0
