"""A server's certificate is looked at before anybody connects."""

import datetime as dt

import pytest

from fedmb.access.certificates import check_server
from fedmb.access.new_keys import make_authority, make_server
from fedmb.errors import SettingsError


@pytest.fixture
def files(tmp_path):
    make_server(tmp_path, ["example.org"], days=30)
    return [tmp_path / name for name in ("server.crt", "server.key", "authority.crt")]


def after(days):
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=days)


def test_days_that_are_left_are_told(files):
    assert check_server(*files) == 29
    assert check_server(files[0], files[1], None) == 29


@pytest.mark.parametrize(("days", "words"), [(31, "expired on .*; make a new one"), (-1, "begins on .*; set this")])
def test_a_certificate_that_is_not_valid_now_is_refused(files, days, words):
    with pytest.raises(SettingsError, match=words):
        check_server(*files, now=after(days))


def test_another_key_is_refused(files, tmp_path):
    make_server(tmp_path / "other", ["example.org"])

    with pytest.raises(SettingsError, match="must belong together"):
        check_server(files[0], tmp_path / "other" / "server.key", None)


def test_another_authority_is_refused(files, tmp_path):
    make_authority(tmp_path / "other")

    with pytest.raises(SettingsError, match="must be signed by its authority"):
        check_server(files[0], files[1], tmp_path / "other" / "authority.crt")


def test_a_key_that_others_may_read_is_refused(files):
    files[1].chmod(0o640)

    with pytest.raises(SettingsError, match="has mode 0640; chmod 600"):
        check_server(*files)


def test_a_file_of_another_kind_is_refused(files):
    with pytest.raises(SettingsError, match="a server's key must be a PEM file"):
        check_server(files[0], files[0], None)
    files[0].write_text("nothing")
    with pytest.raises(SettingsError, match="a certificate must be a PEM file"):
        check_server(*files)
