"""How the suite comes by a broker; that it runs is seen by every test that uses one."""

import shutil

import kafka_broker
import pytest
from kafka_broker import BrokerMissing, KafkaBroker, install_missing, java_version


def program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine of a user who may not install, with a folder for its programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (tmp_path / "sh").symlink_to("/bin/sh")
    return tmp_path


@pytest.mark.parametrize(
    ("said", "version"),
    [('openjdk version "17.0.16" 2025-07-15', 17), ('java version "1.8.0_432"', 8), ("Segmentation fault", 0)],
)
def test_the_version_of_java_is_read_from_what_it_says(bare, said, version):
    program(bare, "java", f"echo '{said}' >&2")

    assert java_version() == version


@pytest.mark.parametrize("script", [None, """echo 'openjdk version "11.0.2" 2019-01-15' >&2"""])
def test_without_java_17_the_suite_fails_and_says_what_to_do(bare, script):
    if script:
        program(bare, "java", script)

    with pytest.raises(BrokerMissing, match="needs java, which is missing or too old; install Java 17 or newer"):
        KafkaBroker().start()


def test_what_the_distribution_lacks_is_tried_under_its_other_name(bare, monkeypatch):
    asked = bare / "asked"
    program(bare, "apt-get", f'echo "$@" >> {asked}; case "$*" in *openjdk-17*) exit 100;; esac')
    monkeypatch.setattr("os.geteuid", lambda: 0)

    install_missing("java")

    assert [line.split()[-1] for line in asked.read_text().splitlines()] == [
        "update",
        "openjdk-17-jre-headless",
        "default-jre-headless",
    ]


def test_a_format_that_fails_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(kafka_broker, "CLUSTER_ID", "not an id")
    with pytest.raises(BrokerMissing, match="must be formatted, got: "):
        KafkaBroker(settings={"process.roles": "nothing"}).start()


def test_there_is_java_here_after_all():
    install_missing("java")

    assert shutil.which("java")
    assert java_version() >= kafka_broker.OLDEST_JAVA
