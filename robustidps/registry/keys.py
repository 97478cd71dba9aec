"""The installation's own signing key: ed25519, through securesystemslib.

`HOME/keys/installation.pem` is the private key, readable by its owner alone; `installation.pub` is the public one,
which is all that checking a ledger takes. The pair is made on first use. Two processes that start at once end up
with the same key, and a crash in between leaves either none or a whole one.

A private key that others can read is refused rather than repaired: whoever could read it may have copied it.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.errors import IntegrityError, StorageError
from robustidps.settings import writable

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

__all__ = ["InstallationKey", "write_atomically"]


@dataclass
class InstallationKey:
    """Signs and checks with the key in `folder`.

    Nothing is read or made before it is needed: reading history needs no key, checking it only the public one.
    """

    folder: Path

    def __post_init__(self) -> None:
        self._signer: CryptoSigner | None = None
        self._trusted: dict[str, SSlibKey] | None = None

    @property
    def private_file(self) -> Path:
        return self.folder / "installation.pem"

    @property
    def public_file(self) -> Path:
        return self.folder / "installation.pub"

    @property
    def key_id(self) -> str:
        """The id of the key that signs. Makes the key where there is none; raises what `sign` raises."""
        return self._loaded().public_key.keyid

    def sign(self, payload: bytes) -> tuple[str, str]:
        """(key id, signature in hex) over `payload`. Makes the key where there is none.

        Raises:
            IntegrityError: the private key is missing beside its public half, readable by others, or unreadable.
            StorageError: the key can't be written.
        """
        signature = self._loaded().sign(payload)
        return signature.keyid, signature.signature

    def _loaded(self) -> CryptoSigner:
        if self._signer is None:
            self._signer = self._load_or_make()
        return self._signer

    def problem_with(self, payload: bytes, key_id: str, signature: str) -> str | None:
        """What is wrong with `signature` over `payload`, or None if a key of this installation made it."""
        from securesystemslib.exceptions import UnverifiedSignatureError
        from securesystemslib.signer import Signature

        key = self.trusted().get(key_id)
        if key is None:
            return f"is signed with key {str(key_id)[:16]}, which is not this installation's"
        try:
            key.verify_signature(Signature(key_id, str(signature)), payload)
        except UnverifiedSignatureError:
            return "has a signature that does not match its content"
        return None

    def trusted(self) -> dict[str, SSlibKey]:
        """The public keys that count here, by key id; empty before anything was signed.

        Raises:
            IntegrityError: the public key file is not one, or isn't the private key's other half.
        """
        if self._trusted is None:
            from cryptography.hazmat.primitives.serialization import load_pem_public_key
            from securesystemslib.signer import SSlibKey

            try:
                pem = self.public_file.read_bytes()
            except FileNotFoundError:
                if not self.private_file.exists():
                    return {}
                self._loaded()
                pem = self.public_file.read_bytes()
            try:
                key = SSlibKey.from_crypto(load_pem_public_key(pem))
            except ValueError as error:
                raise IntegrityError(
                    f"is not a public key: {error}", where=self.public_file, remedy="restore it from a backup"
                ) from None
            self._trusted = {key.keyid: key}
        return self._trusted

    def _load_or_make(self) -> CryptoSigner:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from securesystemslib.signer import CryptoSigner

        if not self.private_file.exists():
            if self.public_file.exists():
                raise IntegrityError(
                    "the private key is missing, its public half is there",
                    where=self.private_file,
                    remedy="restore it from a backup; decisions can be read and checked without it, but none be taken",
                )
            self._make()
        try:
            private = serialization.load_pem_private_key(self._read_private(), password=None)
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
        return CryptoSigner(private)

    def _read_private(self) -> bytes:
        try:
            descriptor = os.open(self.private_file, os.O_RDONLY | os.O_NOFOLLOW)
        except PermissionError:
            raise StorageError("can't be read: permission denied", where=self.private_file) from None
        except OSError as error:
            raise IntegrityError(f"can't be used as a key: {error.strerror}", where=self.private_file) from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise IntegrityError(
                    "the private key can be read or changed by others than its owner",
                    where=self.private_file,
                    remedy=f"find out who read it; if nobody did: chmod 600 {self.private_file}",
                )
            if status.st_uid not in (os.geteuid(), 0):
                raise IntegrityError("the private key belongs to another user", where=self.private_file)
            return file.read(65_536)

    def _make(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A hard link is made only where nothing is yet: of two processes that start at once, one key stays.
        write_atomically(self.private_file, pem, mode=0o600, replace=False)


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
