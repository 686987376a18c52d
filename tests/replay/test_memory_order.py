"""Order is kept for nothing where the processor keeps it, and by locks elsewhere."""

from __future__ import annotations

from fedmb.replay import memory_order


def test_order_is_asked_for_where_the_processor_does_not_keep_it(monkeypatch):
    taken = []

    class Lock:
        def __enter__(self):
            taken.append("acquire")

        def __exit__(self, *error):
            taken.append("release")

    monkeypatch.setattr(memory_order, "_LOCK", Lock())
    monkeypatch.setattr(memory_order, "IS_ORDERED", False)
    memory_order.keep_order()
    assert taken == ["acquire", "release"] * 2

    monkeypatch.setattr(memory_order, "IS_ORDERED", True)
    memory_order.keep_order()
    assert len(taken) == 4
