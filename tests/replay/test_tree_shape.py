"""Levels of a wide tree."""

from fedmb.replay.tree_shape import level_sizes


def test_levels_end_where_a_flat_search_is_cheap():
    assert level_sizes(1) == [1]
    assert level_sizes(4096) == [4096]
    assert level_sizes(4097) == [4112, 257]
    assert level_sizes(10**6) == [10**6, 62512, 3907]
