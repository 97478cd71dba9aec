"""Which distributions of other people may bring a model family: those that are named with the hash of their files.

A plugin is Python, and importing it runs it. A distribution that arrives as somebody's dependency, or in a version that
nobody has looked at, must not run because it declares an entry point. So none is imported unless the setting `plugins`
(HOME/settings.yaml, or ROBUSTIDPS_PLUGINS) has a line that it fits:

    plugins:
      - robustidps-lda==1.0.0:sha256-4f2a...      this distribution, this version, these files

`robustidps doctor` and `robustidps models --families` print the line of each plugin that is installed and not allowed.
Whoever writes a plugin, and changes it by the minute, says `plugins: any` on a machine where nothing is at stake.

The hash is SHA-256 over a line `path size sha256` for each file that the distribution installed beside its modules,
read anew each time, so it is the same under pip and uv and changes with any file. It names the plugin's own files, not
those of what the plugin depends on (pip's --require-hashes does that), and protects from nobody who can write to the
environment and to the settings.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

from robustidps.errors import printable

__all__ = ["ANY", "LINE", "allow_line", "is_ours", "why_not"]

ANY = "any"
"""The word that lets every plugin in."""

LINE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?==[A-Za-z0-9.!+_-]{1,64}:sha256-[0-9a-f]{64}")
"""What a line of the list looks like."""

MAX_FILES, MAX_BYTES = 5_000, 256 * 2**20
"""Beyond this a distribution is no plugin that could be hashed at each start."""

_INSTALLERS = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
"""Files beside the metadata that differ by who installed, how and from where."""


def is_ours(point: EntryPoint) -> bool:
    """Whether an entry point is this package's own: declared by it and leading into it."""
    return point.dist is not None and point.dist.name == "robustidps" and point.value.startswith("robustidps.")


def why_not(point: EntryPoint, allowed: tuple[str, ...]) -> tuple[str, str | None] | None:
    """Why the plugin behind `point` may not be imported, and the line that would allow it; None if it may be.

    Nothing of the plugin is imported to find out. The second is None where no line can help.
    """
    if ANY in allowed:
        return None
    if point.dist is None:
        return "it isn't known which distribution it is from", None
    try:
        line = allow_line(point.dist)
        _demand_own_module(point)
    except _CantBePinned as error:
        return f"can't be allowed: {error}", None
    if line in allowed:
        return None
    wanted = _normal(point.dist.name)
    if any(_normal(entry.partition("==")[0]) == wanted for entry in allowed):
        return "not allowed: its version or its files aren't the ones that the setting `plugins` names", line
    return "not allowed: a plugin runs code, and the setting `plugins` doesn't name it", line


def allow_line(dist: Distribution) -> str:
    """`NAME==VERSION:sha256-HEX` of an installed distribution as its files are now. Raises _CantBePinned."""
    return f"{_normal(dist.name)}=={dist.version}:sha256-{_fingerprint(dist)}"


class _CantBePinned(Exception):
    """No hash could vouch for what would run."""


def _fingerprint(dist: Distribution) -> str:
    listed = _files(dist)
    digest, total = hashlib.sha256(), 0
    for name in sorted(listed):
        path = listed[name]
        try:
            total += path.stat().st_size
            if total > MAX_BYTES:
                raise _CantBePinned(f"its files are larger than {MAX_BYTES >> 20} MiB")
            content = path.read_bytes()
        except OSError as error:
            raise _CantBePinned(f"{printable(name, 80)} can't be read: {error.strerror}") from None
        digest.update(f"{name} {len(content)} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(dist: Distribution) -> dict[str, Path]:
    """Path in RECORD -> place, of what it installed beside its modules; bytecode and installers' notes left out."""
    if _editable(dist):
        raise _CantBePinned("it is installed editable, so its code can change under any hash; install it properly")
    # Not `dist.files`: some versions leave out what is listed and isn't there, and the hash would pass over it.
    names = [row[0] for row in csv.reader((dist.read_text("RECORD") or "").splitlines()) if row]
    if len(names) > MAX_FILES:
        raise _CantBePinned(f"it has more than {MAX_FILES:,} files")
    kept = [n for n in names if not n.startswith(("../", "/")) and "__pycache__" not in n and not _note(n)]
    if any(n.endswith(".pth") for n in kept):
        raise _CantBePinned("it changes Python's path (a .pth file), so its code may lie anywhere")
    if not kept:
        raise _CantBePinned("its metadata list no files; install it with pip or uv")
    return {name: Path(str(dist.locate_file(name))) for name in kept}


def _editable(dist: Distribution) -> bool:
    """What PEP 610 says about it; what can't be read counts as editable."""
    try:
        origin = json.loads(dist.read_text("direct_url.json") or "{}")
        return bool(origin.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError, RecursionError):
        return True


def _note(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return file in _INSTALLERS and folder.endswith(".dist-info")


def _demand_own_module(point: EntryPoint) -> None:
    """Where it leads must be one of the distribution's own files, or another's code would run for its hash."""
    assert point.dist is not None  # noqa: S101 - asked before
    top = point.value.partition(":")[0].partition(".")[0].strip()
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        raise _CantBePinned(f"there is no module {printable(top, 80)!r}, or it is spread over several packages")
    origin = Path(spec.origin).resolve()
    if origin not in {path.resolve() for path in _files(point.dist).values()}:
        raise _CantBePinned(f"module {printable(top, 80)!r} isn't one of its own files")


def _normal(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
