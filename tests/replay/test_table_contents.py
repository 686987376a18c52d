import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled_table import REMOVERS, SAMPLERS, ModelledTable, make, rows

from fedmb.errors import ShapeError

KINDS = list(itertools.product(SAMPLERS, REMOVERS, [False, True], [None, 1, 3], [False, True]))


@pytest.mark.parametrize(("sampler", "remover", "limited", "most", "skips"), KINDS)
def test_every_combination_keeps_its_rows_its_ids_and_its_counts(sampler, remover, limited, most, skips):
    table = make(sampler, remover, limited=limited, most=most, skips=skips)
    model, random = ModelledTable(table, most=most, skips=skips), np.random.default_rng(3)
    drawn = 0

    for step in range(16):
        count = int(random.integers(1, 25)) if step % 4 else 3
        model.append(count, random.random(count) if step % 3 else None)
        if len(table) < 4:
            continue
        sample = model.sample(int(random.integers(1, 5)))
        if sample is not None:
            drawn += len(sample)
            ids = [*sample.ids.tolist(), *sample.ids.tolist()[::-1], *(sample.ids - 10).tolist(), -1]
            model.reprioritize(ids, random.random(len(ids)))

    assert drawn > 10


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 25), st.booleans()),
        st.tuples(st.just("sample"), st.integers(1, 12)),
        st.tuples(st.just("reprioritize"), st.lists(st.integers(-3, 60), max_size=8)),
        st.tuples(st.just("go on")),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), OPERATIONS)
def test_a_table_is_a_dictionary_of_rows(kind, operations):
    sampler, remover, _, most, skips = kind
    random = np.random.default_rng(1)
    model = ModelledTable(make(sampler, remover, most=most, skips=skips), most=most, skips=skips)

    for name, *arguments in operations:
        match name:
            case "append":
                count, given_priorities = arguments
                model.append(count, random.random(count) if given_priorities else None)
            case "sample":
                model.sample(*arguments)
            case "reprioritize":
                model.reprioritize(arguments[0], random.random(len(arguments[0])))
            case "go on":
                state = model.table.state_dict()
                model.table = make(sampler, remover, most=most, skips=skips, seed=77)
                model.table.load_state_dict(state)
                model.check()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), max_size=12), st.sampled_from(sorted(SAMPLERS)))
def test_rows_appended_one_by_one_are_as_rows_appended_together(turns, sampler):
    one, other = ModelledTable(make(sampler, "fifo")), ModelledTable(make(sampler, "fifo"))

    for by_row, count in turns:
        (one.append_rows if by_row else one.append)(count)
        other.append(count)
        if len(one.table) >= 5:
            assert one.sample(5).ids.tolist() == other.sample(5).ids.tolist()


def test_of_more_rows_than_fit_the_last_ones_are_kept():
    table = make("uniform", "fifo")

    ids = table.append(rows(0, 25))

    assert ids.tolist() == [-1] * 15 + list(range(15, 25))
    assert sorted(set(table.sample(500).columns["number"].tolist())) == list(range(15, 25))


def test_a_refused_priority_leaves_the_table_as_it_was():
    table = make("prioritized", "fifo")
    table.append(rows(0, 4), priorities=np.ones(4))
    before = repr(table.state_dict())

    for wrong in ([1.0, -1.0], [np.nan, 1.0], [np.inf, 1.0], [1e200, 1.0]):
        with pytest.raises(ValueError, match="priorities must be 0 to 1e\\+100, got"):
            table.append(rows(4, 2), priorities=np.array(wrong))
        with pytest.raises(ValueError, match="priorities must be"):
            table.reprioritize(np.arange(2), np.array(wrong))

    assert repr(table.state_dict()) == before


def test_of_an_id_that_comes_twice_the_last_priority_counts():
    table, other = make("prioritized", "fifo"), make("prioritized", "fifo")
    for one in (table, other):
        one.append(rows(0, 9), priorities=np.arange(9.0))

    applied = table.reprioritize(np.array([3, 5, 3, 7, 3]), np.array([9.0, 2.0, 8.0, 1.0, 0.5]))
    other.reprioritize(np.array([5, 7, 3]), np.array([2.0, 1.0, 0.5]))

    assert applied == 3
    assert table.sample(200).ids.tolist() == other.sample(200).ids.tolist()


def test_a_state_of_other_settings_is_refused():
    table = make("uniform", "fifo", capacity=10)

    for other in (make("uniform", "fifo", capacity=11), make("uniform", "lifo"), make("uniform", "fifo", most=2)):
        with pytest.raises(ShapeError, match="a table's state must fit its settings, got"):
            table.load_state_dict(other.state_dict())


@pytest.mark.parametrize(("sampler", "other"), list(itertools.permutations(SAMPLERS, 2)))
def test_a_state_of_another_sampler_is_refused(sampler, other):
    table = make(sampler, "fifo")

    with pytest.raises(ShapeError, match="must be of this sampler and remover"):
        table.load_state_dict(make(other, "fifo").state_dict())


def test_a_state_of_other_columns_is_refused():
    state = make("uniform", "fifo").state_dict()
    state["rows"] = {name: column.astype(np.float64) for name, column in state["rows"].items()}

    with pytest.raises(ShapeError, match="convert it"):
        make("uniform", "fifo").load_state_dict(state)
