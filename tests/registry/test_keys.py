"""The installation's key: made once, for its owner's eyes only, and never quietly replaced."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.signer import Signature, SSlibKey

from robustidps.errors import IntegrityError, StorageError
from robustidps.registry import keys
from robustidps.registry.keys import InstallationKey


def test_the_key_is_made_on_first_use_for_its_owner_alone(tmp_path):
    key = InstallationKey(tmp_path / "keys")
    assert not key.folder.exists() and key.trusted() == {}
    key_id, signature = key.sign(b"payload")
    assert key.private_file.stat().st_mode & 0o777 == 0o600
    assert InstallationKey(tmp_path / "keys").problem_with(b"payload", key_id, signature) is None


def test_a_signature_over_something_else_is_refused(tmp_path):
    key = InstallationKey(tmp_path)
    key_id, signature = key.sign(b"payload")
    assert "does not match" in key.problem_with(b"pay1oad", key_id, signature)
    assert "does not match" in key.problem_with(b"payload", key_id, "zz")
    assert "not this installation's" in key.problem_with(b"payload", "0" * 64, signature)


def test_keys_and_signatures_are_those_of_tuf(tmp_path):
    key = InstallationKey(tmp_path)
    key_id, signature = key.sign(b"payload")
    same = SSlibKey.from_crypto(load_pem_public_key(key.public_file.read_bytes()))
    assert same.keyid == key_id
    same.verify_signature(Signature(key_id, signature), b"payload")


def test_a_public_key_of_another_kind_is_refused(tmp_path):
    InstallationKey(tmp_path).sign(b"")
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "installation.pub").write_bytes(pem)
    with pytest.raises(IntegrityError, match="not an ed25519 key"):
        InstallationKey(tmp_path).trusted()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_private_key_that_others_can_read_or_write_is_refused(tmp_path, mode):
    InstallationKey(tmp_path).sign(b"")
    (tmp_path / "installation.pem").chmod(mode)
    with pytest.raises(IntegrityError, match="others than its owner"):
        InstallationKey(tmp_path).sign(b"")


def test_a_missing_private_key_is_not_replaced(tmp_path):
    InstallationKey(tmp_path).sign(b"")
    (tmp_path / "installation.pem").unlink()
    with pytest.raises(IntegrityError, match="private key is missing"):
        InstallationKey(tmp_path).sign(b"")
    assert InstallationKey(tmp_path).trusted()


def test_a_private_key_that_is_a_link_is_refused(tmp_path):
    InstallationKey(tmp_path / "a").sign(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "installation.pem").symlink_to(tmp_path / "a" / "installation.pem")
    with pytest.raises(IntegrityError, match="can't be used"):
        InstallationKey(tmp_path / "b").sign(b"")


def test_an_exchanged_public_key_is_noticed_before_anything_is_signed(tmp_path):
    for folder in ("a", "b"):
        InstallationKey(tmp_path / folder).sign(b"")
    (tmp_path / "a" / "installation.pub").write_bytes((tmp_path / "b" / "installation.pub").read_bytes())
    with pytest.raises(IntegrityError, match="not the other half"):
        InstallationKey(tmp_path / "a").sign(b"")


@pytest.mark.parametrize("name", ["installation.pem", "installation.pub"])
def test_a_damaged_key_file_is_named(tmp_path, name):
    InstallationKey(tmp_path).sign(b"")
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(IntegrityError, match=name):
        key = InstallationKey(tmp_path)
        key.trusted()
        key.sign(b"")


def test_processes_that_start_at_once_end_up_with_one_key(tmp_path):
    script = (
        "import sys, pathlib; from robustidps.registry.keys import InstallationKey as K;"
        "print(K(pathlib.Path(sys.argv[1])).key_id)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ids = {process.communicate()[0].strip() for process in started}
    assert ids == {InstallationKey(tmp_path).key_id}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["installation.pem", "installation.pub"]


def test_a_full_disk_leaves_no_half_written_key(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        InstallationKey(tmp_path).sign(b"")
    assert list(tmp_path.iterdir()) == []
