"""A publisher's keys: encrypted, for their owner alone, and never in an error."""

from __future__ import annotations

import pytest

from robustidps.errors import ConfigError, IntegrityError, NotFoundError, VersionExistsError
from robustidps.updates import keys
from robustidps.updates.keys import KeyRing

SECRET = b"correct horse battery"


def ring(folder, passphrase=SECRET):
    return KeyRing([folder], lambda name, new: passphrase)


def test_a_key_is_made_encrypted_for_its_owner_alone_and_signs(tmp_path):
    made = ring(tmp_path / "keys").make("offline-1")
    private = tmp_path / "keys" / "offline-1.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in private.read_bytes()
    again = ring(tmp_path / "keys")
    signature = again.signer("offline-1").sign(b"payload")
    made.verify_signature(signature, b"payload")
    assert again.name_of(made.keyid) == "offline-1"


def test_a_wrong_passphrase_is_said_without_repeating_it(tmp_path):
    ring(tmp_path).make("one")
    with pytest.raises(ConfigError, match="passphrase is wrong") as failure:
        ring(tmp_path, b"another passphrase").signer("one")
    assert "another passphrase" not in str(failure.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_private_key_that_others_can_read_or_change_is_refused(tmp_path, mode):
    ring(tmp_path).make("one")
    (tmp_path / "one.pem").chmod(mode)
    with pytest.raises(IntegrityError, match="others than its owner"):
        ring(tmp_path).signer("one")


def test_what_is_no_key_is_refused(tmp_path):
    ring(tmp_path).make("one")
    (tmp_path / "one.pem").write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(IntegrityError, match="not a private key"):
        ring(tmp_path).signer("one")
    (tmp_path / "one.pub").write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(IntegrityError, match="not a public key"):
        ring(tmp_path).public("one")


def test_a_key_file_that_is_not_encrypted_is_refused(tmp_path):
    ring(tmp_path).make("one")
    plain = ring(tmp_path).signer("one").private_bytes
    (tmp_path / "one.pem").write_bytes(plain)
    with pytest.raises(IntegrityError, match="isn't encrypted"):
        ring(tmp_path).signer("one")


def test_a_private_key_that_is_not_the_other_half_of_its_public_one_is_refused(tmp_path):
    ring(tmp_path).make("one")
    ring(tmp_path).make("two")
    (tmp_path / "one.pub").write_bytes((tmp_path / "two.pub").read_bytes())
    with pytest.raises(IntegrityError, match="other half"):
        ring(tmp_path).signer("one")


def test_a_link_in_place_of_a_key_is_refused(tmp_path):
    ring(tmp_path / "a").make("one")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.pem").symlink_to(tmp_path / "a" / "one.pem")
    (tmp_path / "b" / "one.pub").write_bytes((tmp_path / "a" / "one.pub").read_bytes())
    with pytest.raises(IntegrityError, match="can't be used"):
        ring(tmp_path / "b").signer("one")


def test_a_public_half_alone_is_known_and_does_not_sign(tmp_path):
    ring(tmp_path).make("one")
    (tmp_path / "one.pem").unlink()
    assert ring(tmp_path).names() == ["one"]
    assert ring(tmp_path).name_of(ring(tmp_path).public("one").keyid) is None
    with pytest.raises(NotFoundError, match="private half"):
        ring(tmp_path).signer("one")


def test_a_name_is_not_given_twice(tmp_path):
    ring(tmp_path).make("one")
    with pytest.raises(VersionExistsError):
        ring(tmp_path).make("one")


def test_a_key_and_its_passphrase_come_from_the_environment(tmp_path, monkeypatch):
    made = ring(tmp_path).make("snap-1")
    monkeypatch.setenv("ROBUSTIDPS_PUBLISH_KEY_SNAP_1", (tmp_path / "snap-1.pem").read_text())
    monkeypatch.setenv("ROBUSTIDPS_PUBLISH_PASSPHRASE", SECRET.decode())
    elsewhere = KeyRing([tmp_path / "nowhere"])
    assert elsewhere.names() == ["snap_1"]
    assert elsewhere.signer("snap_1").public_key.keyid == made.keyid
    assert elsewhere.name_of(made.keyid) == "snap_1"


def test_the_passphrase_comes_from_a_file_that_only_its_owner_can_read(tmp_path, monkeypatch):
    ring(tmp_path).make("one")
    file = tmp_path / "passphrase"
    file.write_bytes(SECRET + b"\n")
    monkeypatch.setenv("ROBUSTIDPS_PUBLISH_PASSPHRASE_FILE", str(file))
    file.chmod(0o644)
    with pytest.raises(IntegrityError, match="others than its owner"):
        KeyRing([tmp_path]).signer("one")
    file.chmod(0o600)
    assert KeyRing([tmp_path]).signer("one")


def test_without_a_passphrase_and_without_a_terminal_the_error_says_where_it_may_come_from(tmp_path, monkeypatch):
    ring(tmp_path).make("one")
    monkeypatch.setattr(keys.sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError, match="ROBUSTIDPS_PUBLISH_PASSPHRASE_FILE"):
        KeyRing([tmp_path]).signer("one")


def test_a_short_passphrase_makes_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTIDPS_PUBLISH_PASSPHRASE", "short")
    with pytest.raises(ConfigError, match="shorter than 12"):
        KeyRing([tmp_path / "keys"]).make("one")
    assert not (tmp_path / "keys").exists()
