"""Which keys are let in: read from files, read again when they change, refused when they are none."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedmb.access import node_keys
from fedmb.access.new_keys import make_node
from fedmb.access.node_keys import NodeKeys, fingerprint, private_key, public_keys
from fedmb.errors import SettingsError


def test_a_folder_and_a_file_with_lines_are_one_list(tmp_path):
    lines = [make_node(tmp_path / "nodes", name) for name in ("ward", "meter")]
    (tmp_path / "list").write_text("# two sites\n\n" + "".join(lines))

    assert public_keys(tmp_path / "nodes") == public_keys(tmp_path / "list")
    assert sorted(public_keys(tmp_path / "list").values()) == ["meter", "ward"]


def test_a_key_without_a_comment_is_called_as_its_file(tmp_path):
    line = make_node(tmp_path, "ward")
    (tmp_path / "ward.pub").write_text(" ".join(line.split()[:2]) + "\n")

    assert list(public_keys(tmp_path).values()) == ["ward"]


def test_a_key_listed_twice_is_refused(tmp_path):
    (tmp_path / "other.pub").write_text(make_node(tmp_path, "ward"))

    with pytest.raises(SettingsError, match="must be listed once"):
        public_keys(tmp_path)


def test_what_is_no_key_of_flowers_kind_is_refused(tmp_path):
    other = ed25519.Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    private = other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    for name, content in (("a.pub", public), ("b.pub", b"nonsense"), ("c.key", private), ("d.key", b"nonsense")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_bytes(content)

    for read, name, words in (
        (public_keys, "a.pub", "an EC key of NIST's"),
        (public_keys, "b.pub", "line 1 is not"),
        (private_key, "c.key", "an EC key of NIST's"),
        (private_key, "d.key", "without password"),
        (private_key, "e.key", "a file that can be read"),
        (public_keys, "nowhere", "a folder of .pub files"),
    ):
        with pytest.raises(SettingsError, match=words):
            read(tmp_path / name)


def test_an_empty_list_lets_nobody_in_and_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="must hold a public key of each node"):
        public_keys(tmp_path)


def test_a_private_key_that_others_may_read_is_refused(tmp_path):
    make_node(tmp_path, "ward")
    (tmp_path / "ward.key").chmod(0o644)

    with pytest.raises(SettingsError, match="has mode 0644; chmod 600"):
        private_key(tmp_path / "ward.key")


def test_a_list_is_read_again_when_its_files_change(tmp_path, monkeypatch):
    monkeypatch.setattr(node_keys, "_LOOK_SECONDS", -1.0)
    make_node(tmp_path, "ward")
    keys = NodeKeys(tmp_path)

    make_node(tmp_path, "meter")

    assert sorted(keys.names.values()) == ["meter", "ward"]
    (tmp_path / "ward.pub").unlink()
    assert list(keys.names.values()) == ["meter"]


def test_a_list_that_breaks_leaves_the_old_one_in_force(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(node_keys, "_LOOK_SECONDS", -1.0)
    make_node(tmp_path, "ward")
    keys = NodeKeys(tmp_path)

    (tmp_path / "broken.pub").write_text("nonsense")

    assert list(keys.names.values()) == ["ward"]
    assert "node keys not read" in caplog.text


def test_a_fingerprint_is_what_ssh_keygen_shows(tmp_path):
    (tmp_path / "fixed.pub").write_bytes(
        ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    )
    ((pem, _),) = public_keys(tmp_path / "fixed.pub").items()

    assert fingerprint(pem) == KEYGEN
    assert fingerprint(os.urandom(40)) == "unreadable"


KEYGEN = "SHA256:Tj3pEEgywOic7EHx925KcrkGZ1GuKRGkCNDMtQP36ls"  # `ssh-keygen -lf` of that key
