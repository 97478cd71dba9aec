"""The installation's own signing key: ed25519, through `cryptography`; key ids as TUF and securesystemslib have them.

`HOME/keys/installation.pem` is the private key, readable by its owner alone; `installation.pub` is the public one,
which is all that checking a ledger takes. The pair is made on first use. Two processes that start at once end up
with the same key, and a crash in between leaves either none or a whole one.

`former.json` holds public keys of installations that this one was restored from, each with the last record that it
counts for: what it signs later is nobody's.

A private key that others can read is refused rather than repaired: whoever could read it may have copied it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import IntegrityError, StorageError
from robustidps.settings import writable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["InstallationKey", "VerifyingKey", "read_private", "write_atomically"]


class VerifyingKey:
    """The public half of an ed25519 pair. `keyid` is SHA-256 (hex) over its canonical JSON, as TUF has it."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        described = {"keytype": "ed25519", "keyval": {"public": key.public_bytes_raw().hex()}, "scheme": "ed25519"}
        self.keyid = hashlib.sha256(json.dumps(described, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def of(cls, pem: bytes, where: object) -> VerifyingKey:
        """The key in a PEM text. Raises IntegrityError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        remedy = "restore it from a backup"
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise IntegrityError(f"is not a public key: {error}", where=where, remedy=remedy) from None
        if not isinstance(key, Ed25519PublicKey):
            raise IntegrityError("is not an ed25519 key", where=where, remedy=remedy)
        return cls(key)

    def verifies(self, signature: str, payload: bytes) -> bool:
        """Whether `signature`, in hex, was made over `payload` with the private half."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(bytes.fromhex(signature), payload)
        except (ValueError, InvalidSignature):
            return False
        return True


@dataclass
class InstallationKey:
    """Signs and checks with the key in `folder`.

    Nothing is read or made before it is needed: reading history needs no key, checking it only the public one.
    """

    folder: Path

    def __post_init__(self) -> None:
        self._private: Ed25519PrivateKey | None = None
        self._trusted: dict[str, VerifyingKey] | None = None
        self._former: dict[str, tuple[VerifyingKey, int]] | None = None

    @property
    def private_file(self) -> Path:
        return self.folder / "installation.pem"

    @property
    def public_file(self) -> Path:
        return self.folder / "installation.pub"

    @property
    def former_file(self) -> Path:
        return self.folder / "former.json"

    @property
    def key_id(self) -> str:
        """The id of the key that signs. Makes the key where there is none; raises what `sign` raises."""
        return VerifyingKey(self._loaded().public_key()).keyid

    def sign(self, payload: bytes) -> tuple[str, str]:
        """(key id, signature in hex) over `payload`. Makes the key where there is none.

        Raises:
            IntegrityError: the private key is missing beside its public half, readable by others, or unreadable.
            StorageError: the key can't be written.
        """
        return self.key_id, self._loaded().sign(payload).hex()

    def _loaded(self) -> Ed25519PrivateKey:
        if self._private is None:
            self._private = self._load_or_make()
        return self._private

    def problem_with(self, payload: bytes, key_id: str, signature: str, seq: Any = None) -> str | None:
        """What is wrong with `signature` over `payload`, or None if a key of this installation made it.

        Args:
            seq: the ledger record that is signed: one up to which a former installation's key counts.
        """
        key = self.trusted().get(key_id)
        if key is None and key_id in self.former():
            former, until = self.former()[key_id]
            key = former if isinstance(seq, int) and seq <= until else None
        if key is None:
            return f"is signed with key {str(key_id)[:16]}, which is not this installation's"
        if not key.verifies(str(signature), payload):
            return "has a signature that does not match its content"
        return None

    def trusted(self) -> dict[str, VerifyingKey]:
        """The public keys that count here, by key id; empty before anything was signed.

        Raises:
            IntegrityError: the public key file is not one, or isn't the private key's other half.
        """
        if self._trusted is None:
            try:
                pem = self.public_file.read_bytes()
            except FileNotFoundError:
                if not self.private_file.exists():
                    return {}
                self._loaded()
                pem = self.public_file.read_bytes()
            key = VerifyingKey.of(pem, self.public_file)
            self._trusted = {key.keyid: key}
        return self._trusted

    def former(self) -> dict[str, tuple[VerifyingKey, int]]:
        """Former installations' public keys, by key id, with the last record that each counts for.

        Raises:
            IntegrityError: the file can't be read as that.
        """
        if self._former is None:
            try:
                content = self.former_file.read_bytes()
            except FileNotFoundError:
                return {}
            self._former = self._parsed(content)
        return self._former

    def _parsed(self, content: bytes) -> dict[str, tuple[VerifyingKey, int]]:
        try:
            entries = [
                (VerifyingKey.of(str(e["public"]).encode(), self.former_file), int(e["until"]))
                for e in json.loads(content)
            ]
        except (ValueError, KeyError, TypeError):
            raise IntegrityError("can't be read", where=self.former_file, remedy="restore it from a backup") from None
        return {key.keyid: (key, until) for key, until in entries}

    def put_former(self, content: bytes) -> None:
        """Takes over another installation's `former.json`. Raises IntegrityError, StorageError."""
        self._parsed(content)
        self._make_folder()
        write_atomically(self.former_file, content, mode=0o600)
        self._former = None

    def retire(self, pem: bytes, until: int) -> None:
        """Has the public key in `pem` count for records up to number `until`. Raises IntegrityError, StorageError."""
        VerifyingKey.of(pem, "the backup's public key")
        content = json.loads(self.former_file.read_bytes()) if self.former_file.exists() else []
        self.put_former(json.dumps([*content, {"public": pem.decode("ascii"), "until": until}]).encode())

    def put(self, public_pem: bytes, private_pem: bytes) -> None:
        """Takes over a whole key, where there is none yet. Raises IntegrityError, StorageError."""
        self._make_folder()
        write_atomically(self.private_file, private_pem, mode=0o600, replace=False)
        write_atomically(self.public_file, public_pem, mode=0o644, replace=False)
        self.forget()
        self._loaded()

    def forget(self) -> None:
        """Forgets what was read from the folder."""
        self._private = self._trusted = self._former = None

    def _make_folder(self) -> None:
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _load_or_make(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not self.private_file.exists():
            if self.public_file.exists():
                raise IntegrityError(
                    "the private key is missing, its public half is there",
                    where=self.private_file,
                    remedy="restore it from a backup; decisions can be read and checked without it, but none be taken",
                )
            self._make()
        try:
            private = serialization.load_pem_private_key(read_private(self.private_file), password=None)
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"is not a private key: {error}", where=self.private_file, remedy="restore it from a backup"
            ) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise IntegrityError("is not an ed25519 key", where=self.private_file, remedy="restore it from a backup")
        public_pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if not self.public_file.exists():
            write_atomically(self.public_file, public_pem, mode=0o644)
        elif self.public_file.read_bytes() != public_pem:
            raise IntegrityError(
                "is not the other half of installation.pem", where=self.public_file, remedy="restore both from a backup"
            )
        return private

    def _make(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._make_folder()
        # A hard link is made only where nothing is yet: of two processes that start at once, one key stays.
        write_atomically(self.private_file, pem, mode=0o600, replace=False)


def read_private(path: Path, what: str = "the private key") -> bytes:
    """A secret's file, at most 64 KiB of it. Nothing is repaired: whoever could read it may have copied it.

    Raises:
        IntegrityError: others than its owner can read or change it, it is another user's, a link, or no file.
        StorageError: it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        raise StorageError("can't be read: permission denied", where=path) from None
    except OSError as error:
        raise IntegrityError(f"{what} can't be used: {error.strerror}", where=path) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise IntegrityError(
                f"{what} can be read or changed by others than its owner",
                where=path,
                remedy=f"find out who read it; if nobody did: chmod 600 {path}",
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise IntegrityError(f"{what} belongs to another user", where=path)
        return file.read(65_536)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """Writes a whole file or none; with `replace=False` one that is there already stays as it is.

    Raises:
        StorageError: the disk is full or the folder read-only.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with writable(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return
        finally:
            temporary.unlink(missing_ok=True)
