import threading

import pytest
from modelled_table import ModelledTable, make, same_rows, values

from fedmb.errors import ShapeError


@pytest.mark.parametrize("is_mapped", [False, True])
def test_rows_go_round_and_a_refused_one_leaves_nothing_behind(tmp_path, is_mapped):
    model = ModelledTable(make("prioritized", "fifo", folder=tmp_path if is_mapped else None))

    for count in (3, 9, 1, 27):
        model.append_rows(count)
        with pytest.raises(ShapeError):
            model.table.append_row([1, 2])
        model.check()
        model.sample(5)

    assert not model.table._lock.locked()
    model.table.close()


def test_two_threads_that_append_rows_lose_none():
    table = make("uniform", "fifo", capacity=1000)

    def append():
        for number in range(2000):
            table.append_row(values(number))

    threads = [threading.Thread(target=append) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert table.statistics().appended == 4000
    assert same_rows(table.sample(500).columns)


def test_a_function_kept_from_a_table_that_was_closed_writes_to_no_file(tmp_path):
    table = make("uniform", "fifo", folder=tmp_path)
    append_row = table.append_row
    append_row(values(0))
    table.close()
    again = make("uniform", "fifo", folder=tmp_path)

    with pytest.raises(ValueError, match="a table must be open to be used, this one was closed"):
        append_row(values(1))
    with pytest.raises(ValueError, match="a table must be open to be used, this one was closed"):
        table.append_row(values(1))

    assert again.sample(3).columns["number"].tolist() == [0, 0, 0]
    again.close()
