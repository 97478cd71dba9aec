"""Verified bundles, kept on this machine by their digest, so that a rollback needs nobody.

`HOME/cache/bundles/DIGEST/` is one bundle. It gets there whole (copied aside, checked, renamed) and is checked again
each time it is used: a folder whose content no longer has the digest it is named for is refused, never repaired in
silence.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustidps.errors import BundleError, NotFoundError
from robustidps.settings import used, writable

if TYPE_CHECKING:
    from robustidps.bundle import Bundle

__all__ = ["BundleCache"]


@dataclass(frozen=True)
class BundleCache:
    """The folder of kept bundles."""

    folder: Path

    def path(self, digest: str) -> Path:
        return self.folder / digest

    def has(self, digest: str) -> bool:
        """Whether there is a folder for `digest`; its content is not checked."""
        return self.path(digest).is_dir()

    def add(self, source: Path, digest: str) -> Path:
        """Copies a bundle in, unless a good copy is there.

        Raises:
            BundleError: what was copied doesn't have `digest`.
            StorageError: full disk, read-only folder.
        """
        target = self.path(digest)
        if self.has(digest):
            return self.check(digest)
        temporary = self.folder / f".{digest[:16]}.{secrets.token_hex(6)}"
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copytree(source, temporary, symlinks=True)
                self._checked(temporary, digest, source)
                try:
                    temporary.rename(target)
                except OSError:
                    if not target.is_dir():
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return self.check(digest)

    def check(self, digest: str) -> Path:
        """The folder of `digest`, if it is there and unchanged.

        Raises:
            NotFoundError: it isn't kept here.
            BundleError: its content was changed.
        """
        path = self.path(digest)
        if not self.has(digest):
            raise NotFoundError("the bundle is not kept on this machine", where=path)
        self._checked(used(path), digest, path)
        return path

    def open(self, digest: str) -> Bundle:
        """The bundle of `digest`, audited and ready to predict. Raises what `check` raises."""
        from robustidps.bundle import open_bundle

        return open_bundle(self.check(digest), expected_digest=digest)

    def _checked(self, path: Path, digest: str, where: Path) -> None:
        from robustidps.bundle import bundle_digest

        found = bundle_digest(path)
        if found != digest:
            raise BundleError(
                f"the bundle was changed: its digest is {found[:16]}…, registered is {digest[:16]}…",
                where=where,
                remedy="delete that folder; it is fetched again when it is needed"
                if where == path
                else "restore it, or register it as a new version",
            )
