"""A look through a folder of keys finds what would fail at night."""

import datetime as dt

import pytest

from fedmb.access.key_check import look_through
from fedmb.access.new_keys import make_node, make_server
from fedmb.errors import SettingsError


@pytest.fixture
def folder(tmp_path):
    make_server(tmp_path / "keys", ["example.org"], days=30)
    make_node(tmp_path / "keys" / "nodes", "ward")
    return tmp_path / "keys"


def named(found, name):
    return [one for one in found if one.name == name]


def test_keys_in_order_are_usable_and_say_until_when(folder):
    found = look_through(folder)

    assert all(one.is_usable for one in found)
    assert "example.org, localhost, 127.0.0.1, ::1, until" in named(found, "server.crt")[0].found
    assert named(found, "nodes/ward.pub")[0].found.startswith("node ward, SHA256:")
    assert [one.name for one in found if one.advice] == ["authority.key"]


@pytest.mark.parametrize(("days", "is_usable", "words"), [(20, True, "make a new one"), (40, False, "make a new one")])
def test_an_end_that_is_near_or_past_is_told(folder, days, is_usable, words):
    (found,) = named(look_through(folder, dt.datetime.now(dt.UTC) + dt.timedelta(days=days)), "server.crt")

    assert found.is_usable is is_usable
    assert words in found.advice


def test_a_key_that_others_may_read_is_of_no_use(folder):
    (folder / "nodes" / "ward.key").chmod(0o644)

    (found,) = named(look_through(folder), "nodes/ward.key")

    assert not found.is_usable
    assert found.advice.startswith("chmod 600")


def test_a_certificate_of_another_authority_or_key_is_of_no_use(folder, tmp_path):
    make_server(tmp_path / "other", ["example.org"])
    (folder / "server.crt").write_bytes((tmp_path / "other" / "server.crt").read_bytes())

    found = look_through(folder)

    assert [one.name for one in found if not one.is_usable] == ["server.crt", "server.key"]


def test_two_keys_in_a_pub_file_are_told(folder):
    (folder / "nodes" / "ward.pub").write_text(make_node(folder, "a") + make_node(folder, "b"))

    (found,) = named(look_through(folder), "nodes/ward.pub")

    assert not found.is_usable


def test_no_folder_and_no_keys_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="keys must be in a folder"):
        look_through(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="must have some"):
        look_through(tmp_path)
