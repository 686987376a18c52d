import errno
import resource

import numpy as np
import pytest

from fedmb.aggregation.layout import Layout
from fedmb.aggregation.spool import Spool, gather

MODEL = {"w": np.arange(3000.0), "h": np.arange(7, dtype=np.float16), "n": np.arange(5), "on": np.array([True, False])}


def values(kept, layout, elements, *, floating):
    found = {}
    for block in layout.blocks(elements, floating=floating):
        row = found.setdefault(block.run.dtype, np.zeros(block.run.size, block.run.dtype))
        gather(kept, block, row[block.start : block.stop])
    return found


@pytest.mark.parametrize("memory_bytes", [0, 1e9])
@pytest.mark.parametrize("elements", [1, 64, 10_000])
def test_models_come_back_as_they_were_from_memory_and_from_the_file(memory_bytes, elements):
    layout = Layout(MODEL)
    spool = Spool(layout, memory_bytes=memory_bytes)
    kept = [spool.keep({name: array if k == 0 else array[::-1] for name, array in MODEL.items()}) for k in range(2)]

    for k, one in enumerate(kept):
        found = values(one, layout, elements, floating=True) | values(one, layout, elements, floating=False)
        for array in MODEL.values():
            assert np.array_equal(found[array.dtype], array if k == 0 else array[::-1])
    spool.close()


def test_memory_is_filled_first():
    layout = Layout(MODEL)
    spool = Spool(layout, memory_bytes=2.5 * layout.num_bytes)
    filed = [spool.keep(MODEL) and spool.filed_bytes for _ in range(4)]
    spool.close()

    assert filed[:2] == [0, 0]
    assert 0 < filed[2] < filed[3]


def test_a_full_disk_is_told_as_such():
    spool = Spool(Layout(MODEL), memory_bytes=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="large") as caught:  # noqa: PT012  # Python ignores the signal, not the error
            spool.keep(MODEL)
            spool.keep(MODEL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        spool.close()

    assert caught.value.errno == errno.EFBIG
