"""A flood of refusals is a line of each kind, and a count."""

from fedmb.access import refusal_log
from fedmb.access.refusal import Reason, Refused
from fedmb.access.refusal_log import RefusalLog


def test_each_kind_is_told_at_once_and_then_counted(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(refusal_log.time, "monotonic", lambda: now[0])
    log = RefusalLog()

    for _ in range(500):
        log.note("10.0.0.9", Refused(Reason.REPLAY, "once; anew"))
    log.note("10.0.0.9", Refused(Reason.SIZE, "large; less"))
    now[0] += refusal_log.QUIET_SECONDS
    log.note("10.0.0.9", Refused(Reason.REPLAY, "once; anew"))

    assert [record.message for record in caplog.records] == [
        "node refused peer=10.0.0.9 reason=replay untold=0: once; anew",
        "node refused peer=10.0.0.9 reason=size untold=0: large; less",
        "node refused peer=10.0.0.9 reason=replay untold=499: once; anew",
    ]
