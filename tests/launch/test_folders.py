"""The process folders are found in a wheel and in a checkout."""

import pytest

from fedmb.errors import FedmbError
from fedmb.launch import folders as launch


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder that is not this checkout's."""
    (tmp_path / "fedmb" / "launch").mkdir(parents=True)
    monkeypatch.setattr(launch, "__file__", str(tmp_path / "fedmb" / "launch" / "folders.py"))
    return tmp_path / "fedmb"


def folders(place):
    for folder in launch.PROCESS_FOLDERS:
        (place / folder).mkdir(parents=True)


def test_a_checkout_is_its_own_bundle(package):
    folders(package.parent)

    assert launch.bundle() == package.parent


def test_a_wheels_bundle_comes_first(package):
    folders(package.parent)
    folders(package / "bundle")

    assert launch.bundle() == package / "bundle"


def test_a_half_installation_is_an_error(package):
    (package / "bundle" / "clients").mkdir(parents=True)

    with pytest.raises(FedmbError, match="got neither; install fedmb again"):
        launch.bundle()
