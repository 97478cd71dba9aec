"""A publisher's keys: ed25519 pairs, by name.

A key folder holds `NAME.pub`, the public half, and on the machine of whoever keeps it `NAME.pem`, the private half:
PKCS8, encrypted, readable by its owner alone. A key may also come from the environment, as PEM in
`ROBUSTIDPS_PUBLISH_KEY_NAME`, as a secret store hands it over.

The passphrase comes from `ROBUSTIDPS_PUBLISH_PASSPHRASE`, from a file that only its owner can read and that
`ROBUSTIDPS_PUBLISH_PASSPHRASE_FILE` names, or from a hidden prompt on a terminal. It is no option of any command, as
command lines are seen by others and kept in histories; no error and no log repeats it.

A private half is opened when something is to be signed with it, and not before: looking asks for no passphrase.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.errors import ConfigError, IntegrityError, NotFoundError, VersionExistsError
from robustidps.registry.keys import read_private, write_atomically
from robustidps.settings import check_name, exists, writable

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

__all__ = ["MIN_PASSPHRASE", "KeyRing", "ask_passphrase"]

KEY_VARIABLE = "ROBUSTIDPS_PUBLISH_KEY_"
PASSPHRASE_VARIABLE, PASSPHRASE_FILE_VARIABLE = "ROBUSTIDPS_PUBLISH_PASSPHRASE", "ROBUSTIDPS_PUBLISH_PASSPHRASE_FILE"
MIN_PASSPHRASE = 12
"""Characters of a passphrase that a new key may have at least."""


def ask_passphrase(name: str, new: bool) -> bytes:
    """The passphrase of the key `name`, from the environment, a file or a hidden prompt.

    Args:
        new: the key is about to be made: a prompt asks twice.

    Raises:
        ConfigError: there is none and nobody to ask; two that were typed differ; one for a new key is short.
        IntegrityError: others can read the file that holds it.
    """
    where = f"passphrase of key {name}"
    if text := os.environ.get(PASSPHRASE_VARIABLE):
        found = text.encode()
    elif file := os.environ.get(PASSPHRASE_FILE_VARIABLE):
        found = read_private(Path(file), "the passphrase").rstrip(b"\r\n")
    elif sys.stdin.isatty():
        import getpass

        found = getpass.getpass(f"passphrase of {'the new key' if new else 'key'} {name}: ").encode()
        if new and getpass.getpass("once more: ").encode() != found:
            raise ConfigError("the two differ", where=where, remedy="type it again")
    else:
        found = b""
    if not found:
        raise ConfigError(
            "there is none, and no terminal to ask on",
            where=where,
            remedy=f"set {PASSPHRASE_VARIABLE}, or {PASSPHRASE_FILE_VARIABLE} to a file that only you can read",
        )
    if new and len(found.decode("utf-8", "replace")) < MIN_PASSPHRASE:
        raise ConfigError(f"is shorter than {MIN_PASSPHRASE} characters", where=where)
    return found


class KeyRing:
    """The keys in some folders and in the environment.

    folders: where keys lie; the first is where new ones are made. One that isn't there holds none.
    passphrase: asked with a key's name, and whether it is new, for its passphrase.
    """

    def __init__(self, folders: Sequence[Path], passphrase: Callable[[str, bool], bytes] = ask_passphrase) -> None:
        self.folders = [Path(folder) for folder in folders]
        self._passphrase = passphrase
        self._opened: dict[str, CryptoSigner] = {}
        self._public: dict[str, SSlibKey] = {}

    def public(self, name: str) -> SSlibKey:
        """The public half of a key.

        Raises:
            NotFoundError: no such key. IntegrityError: its file isn't a public key. And what `signer` raises, for a
            key in the environment, whose public half lies within the private one.
        """
        if name not in self._public:
            check_name(name, "key's name")
            file = self._file(f"{name}.pub")
            if file is not None:
                self._public[name] = _public_key(file)
            elif _variable(name) in os.environ:
                self._public[name] = self._open(name).public_key
            else:
                raise NotFoundError(
                    "no such key",
                    where=f"{name}.pub in {', '.join(map(str, self.folders)) or 'no folder'}",
                    remedy="name its folder with --keys, or make it: robustidps publish key NAME",
                )
        return self._public[name]

    def names(self) -> list[str]:
        """The names of all keys here, whether or not their private half is."""
        found = {file.stem for folder in self.folders if exists(folder) for file in folder.glob("*.pub")}
        for variable in os.environ:
            if variable.startswith(KEY_VARIABLE):
                name = variable.removeprefix(KEY_VARIABLE).lower()
                found |= {name} if not any(_variable(n) == variable for n in found) else set()
        return sorted(found)

    def holds(self, name: str) -> bool:
        """Whether the key's private half is here."""
        return _variable(name) in os.environ or self._file(f"{name}.pem") is not None

    def name_of(self, key_id: str) -> str | None:
        """The name of the key with this id, if its private half is here: what can be signed with."""
        return next((n for n in self.names() if self.holds(n) and self.public(n).keyid == key_id), None)

    def signer(self, name: str) -> CryptoSigner:
        """What signs with the key `name`.

        Raises:
            NotFoundError: its private half isn't here.
            ConfigError: the passphrase is missing or wrong.
            IntegrityError: it isn't an encrypted ed25519 key, others can read it, or it is another one than `NAME.pub`.
        """
        signer = self._open(name)
        if self.public(name).keyid != signer.public_key.keyid:
            raise IntegrityError("isn't the other half of its .pub", where=name, remedy="restore both from a backup")
        return signer

    def make(self, name: str) -> SSlibKey:
        """Makes a key in the first folder, and gives its public half.

        Raises:
            VersionExistsError: there is one of that name. ConfigError: no passphrase. StorageError.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        check_name(name, "key's name")
        if name in self.names() or self._file(f"{name}.pem") is not None:
            raise VersionExistsError("there is a key of that name", where=name, remedy="choose another name")
        private = Ed25519PrivateKey.generate()
        encryption = serialization.BestAvailableEncryption(self._passphrase(name, True))
        private_pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        public_pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        folder = self.folders[0]
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(folder / f"{name}.pem", private_pem, mode=0o600, replace=False)
        write_atomically(folder / f"{name}.pub", public_pem, replace=False)
        return self.public(name)

    def _file(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if os.path.lexists(folder / name)), None)

    def _open(self, name: str) -> CryptoSigner:
        if name not in self._opened:
            self._opened[name] = self._decrypted(name)
        return self._opened[name]

    def _decrypted(self, name: str) -> CryptoSigner:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from securesystemslib.signer import CryptoSigner

        check_name(name, "key's name")
        text = os.environ.get(_variable(name))
        where: object = _variable(name)
        if text is not None:
            pem = text.encode()
        else:
            file = self._file(f"{name}.pem")
            if file is None:
                raise NotFoundError("its private half isn't here", where=f"key {name}", remedy="name its folder")
            pem, where = read_private(file), file
        if b"BEGIN ENCRYPTED PRIVATE KEY" in pem:
            passphrase: bytes | None = self._passphrase(name, False)
        elif text is None and b"PRIVATE KEY" in pem:
            raise IntegrityError("isn't encrypted", where=where, remedy="retire it; make one with `publish key`")
        else:
            passphrase = None  # a secret store that hands over a key has decrypted it
        try:
            private = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError):
            if passphrase is not None:
                raise ConfigError("the passphrase is wrong, or the file damaged", where=where) from None
            raise IntegrityError("is not a private key", where=where, remedy="restore it from a backup") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise IntegrityError("is not an ed25519 key", where=where)
        return CryptoSigner(private)


def _variable(name: str) -> str:
    return KEY_VARIABLE + name.upper().replace("-", "_")


def _public_key(file: Path) -> SSlibKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(file.read_bytes()[:65_536]))
    except OSError as error:
        raise IntegrityError(f"can't be read: {error.strerror}", where=file) from None
    except ValueError as error:
        raise IntegrityError(f"is not a public key: {error}", where=file, remedy="restore it from a backup") from None
