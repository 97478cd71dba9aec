"""What an attacker who can write to a bundle's whole folder does after an edit: make its digest fit again.

Tests use it so that a forged file meets the check that is meant for it, and not only the digest.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from robustidps.bundle.files import Contents, canonical, digest_of

__all__ = ["files_of", "raw_archive", "reseal"]


def reseal(folder: Path, **metadata: Any) -> str:
    """Puts `metadata` and a digest that fits into metadata.json, without judging anything; gives the digest."""
    path = folder / "metadata.json"
    content = json.loads(path.read_text(encoding="utf-8")) | metadata
    listing = []
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            listing.append((str(file.relative_to(folder)), len(data), hashlib.sha256(data).hexdigest()))
    content["checksum"] = digest_of(Contents(folder, {}, tuple(sorted(listing))), content)
    path.write_bytes(canonical(content))
    return str(content["checksum"])


def raw_archive(files: dict[str, bytes]) -> bytes:
    """Any files as an archive of the form that `updates.archive.pack` writes, in the order given, unjudged."""
    out = b""
    for name, data in files.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
        out += entry.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    return out + bytes(1024)


def files_of(folder: Path) -> dict[str, bytes]:
    """Relative path to content of every file below `folder`, sorted."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
