"""Accepted replies in the form in which Flower's strategies average them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import MetricRecord, RecordDict

from fedmb.arrays.flat import FlatArrays
from fedmb.federation.model_record import averaged_record
from fedmb.federation.record_names import ARRAYS, METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flwr.app import Message

    from fedmb.federation.cohort import Reply


def averageable(replies: Sequence[Reply]) -> list[Message]:
    """The replies as strategies see them: with what of their decompressed models may be averaged.

    Flower's strategies end a run where two replies differ in their records or in the names of their figures. So they
    are handed one record of arrays and one of figures, with the figures that every client told.
    """
    shared = set.intersection(*({*one.message.content.metric_records[METRICS]} for one in replies))
    for reply in replies:
        content = reply.message.content
        metrics = content.metric_records[METRICS]
        record = averaged_record(FlatArrays.packed(reply.update.arrays), content.array_records[ARRAYS])
        reply.message.content = RecordDict(
            {
                **content.config_records,
                ARRAYS: record,
                METRICS: MetricRecord({name: value for name, value in metrics.items() if name in shared}),
            }
        )
    return [reply.message for reply in replies]
