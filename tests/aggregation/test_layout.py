import numpy as np
import pytest

from fedmb.aggregation.layout import Layout
from fedmb.errors import ShapeError

MODEL = {"n": np.zeros(3, np.int64), "h": np.zeros(5, np.float16), "w": np.zeros((2, 3), np.float32), "v": np.zeros(4)}


def test_wide_dtypes_lie_first_and_each_run_is_aligned_to_its_width():
    runs = Layout(MODEL).runs

    assert [run.dtype.name for run in runs] == ["float64", "float32", "float16", "int64"]
    assert all(run.offset % run.dtype.itemsize == 0 for run in runs)
    assert Layout(MODEL).num_floating == 15


def test_a_layout_depends_on_names_and_not_on_their_order():
    fields = list(Layout(MODEL).fields())

    assert fields == list(Layout(dict(reversed(MODEL.items()))).fields())


@pytest.mark.parametrize("elements", [1, 2, 7, 100])
def test_blocks_cover_every_element_once(elements):
    for floating in (True, False):
        seen = []
        for block in Layout(MODEL).blocks(elements, floating=floating):
            assert block.size == sum(piece.stop - piece.start for piece in block.pieces) <= elements
            seen += [(piece.field.name, k) for piece in block.pieces for k in range(piece.start, piece.stop)]

        wanted = [n for n in MODEL if np.issubdtype(MODEL[n].dtype, np.floating) == floating]
        assert sorted(seen) == sorted((name, k) for name in wanted for k in range(MODEL[name].size))


@pytest.mark.parametrize(
    "changed",
    [{"v": np.zeros(5)}, {"v": np.zeros(4, np.float32)}, {"other": np.zeros(1)}],
    ids=["shape", "dtype", "name"],
)
def test_what_does_not_fit_is_refused(changed):
    with pytest.raises(ShapeError):
        Layout(MODEL).check({**MODEL, **changed})
