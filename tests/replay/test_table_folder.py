import pytest
from modelled_table import SCHEMA

from fedmb.errors import AlreadyOwned, CorruptRing, SettingsError
from fedmb.replay.row_store import RowStore
from fedmb.replay.table_folder import TableFolder, store_of


def folder(path, **settings):
    return TableFolder(path, SCHEMA, 10, **{"layout": "auto", "in_order": True, **settings})


def test_a_folder_has_one_owner(tmp_path):
    one = folder(tmp_path)
    with pytest.raises(AlreadyOwned):
        folder(tmp_path)
    one.close()

    folder(tmp_path).close()


def test_a_folder_made_for_other_settings_is_refused_and_held_by_nobody(tmp_path):
    folder(tmp_path).close()

    with pytest.raises(SettingsError, match="must fit its settings"):
        folder(tmp_path, in_order=False)

    folder(tmp_path).close()


def test_what_fails_to_become_a_table_is_held_by_nobody(tmp_path):
    one = folder(tmp_path)
    with pytest.raises(RuntimeError), one.closed_on_error():
        raise RuntimeError

    folder(tmp_path).close()


def test_rows_without_commits_are_begun_anew_and_commits_without_rows_are_refused(tmp_path):
    folder(tmp_path).close()
    (tmp_path / "commits").unlink()
    folder(tmp_path).close()
    (tmp_path / "rows").unlink()

    with pytest.raises(CorruptRing, match="must lie beside its commits"):
        folder(tmp_path)


def test_a_store_is_taken_as_it_is(tmp_path):
    store, place = RowStore.in_memory(SCHEMA, 4), folder(tmp_path)

    assert store_of(store, None) is store
    assert store_of(store, 4) is store
    assert store_of(place, None) is place.store
    assert store_of(SCHEMA, 7).capacity == 7
    with pytest.raises(SettingsError, match="got 5 too"):
        store_of(store, 5)
    place.close()
