"""One file from one address, whole or not at all: resumed where it was cut, bounded in bytes, time and tries.

    download(url, target)     -> target.part grows; target is there once it is whole (and `check` has let it through)

What has come so far is kept in `TARGET.part`, and beside it, in `TARGET.part.json`, what the server said the file is
(its ETag or date, and its size). A next try, in this run or a later one, asks for the rest with `Range` and
`If-Range` (RFC 9110, 13.1.5 and 14): a server that has another file by now, or that doesn't know ranges, sends all of
it, and the file begins anew. Standard library only; proxies are those of the environment (`https_proxy`, `no_proxy`).

Sent are a Range and our name: no cookie, no credentials. Redirects lead to http and https alone, never from https
back to http, and end after five. A page of HTML in place of a file is a form or a login, and said to be one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from robustidps import __version__
from robustidps.errors import RobustIDPSError, StorageError, UnavailableError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import writable

__all__ = ["Limits", "download", "shown"]

_BLOCK = 1 << 18
_REDIRECTS = 5
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that a later try may not see."""
_MAGIC = {".zip": (b"PK\x03\x04", "zip archive"), ".gz": (b"\x1f\x8b", "gzip file")}


@dataclass(frozen=True)
class Limits:
    """What a download may cost before it is given up."""

    bytes: int = 64 * 1024**3  # of one file, whatever is announced
    tries: int = 6  # in a row that brought less than `headway` bytes
    headway: int = 1024**2
    pause_s: float = 1.0  # before the second try; doubles from try to try
    longest_pause_s: float = 60.0  # also of what a server asks for with Retry-After
    silence_s: float = 30.0  # to connect, and between two packets
    slow_s: float = 60.0  # in which `slow_bytes` must have come
    slow_bytes: int = 16 * 1024


class _Cut(Exception):
    """This try ended early; another may get further."""

    def __init__(self, reason: object, wait_s: float = 0.0) -> None:
        super().__init__(printable(reason))
        self.wait_s = wait_s


class _Begun(BaseModel):
    """`TARGET.part.json`: which file the part is of. validator: a strong ETag or a Last-Modified; empty if neither."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    validator: str = ""
    total: int | None = None


def shown(url: str) -> str:
    """A URL as messages show it: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the address"
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", 300)


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    check: Callable[[Path], None] = lambda part: None,
    by_hand: str = "",
    limits: Limits = Limits(),
    progress: Progress = silent,
) -> None:
    """Fetches `url` into `target`, whose folder is there.

    Args:
        size: bytes that the file must have, where known.
        check: looks at the whole file before it gets its name; what it raises ends the download and removes the file.
        by_hand: what a person can do instead; ends the remedies.

    Raises:
        UnavailableError: no answer, an error, a page instead of a file, another size; a later run goes on from there
            where it was cut. StorageError: no room, or not writable. Whatever `check` raises.
    """
    _Download(url, target, size, by_hand, limits, progress).run(check)


class _Download:
    def __init__(
        self, url: str, target: Path, size: int | None, by_hand: str, limits: Limits, progress: Progress
    ) -> None:
        self.url, self.target, self.size, self.by_hand = url, target, size, by_hand
        self.limits, self.progress = limits, progress
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")
        self.opener = _opener()

    def run(self, check: Callable[[Path], None]) -> None:
        failures, before = 0, self._have()
        while True:
            try:
                self._try()
                break
            except _Cut as cut:
                have = self._have()
                failures = 1 if have - before >= self.limits.headway else failures + 1
                before = have
                if failures >= self.limits.tries:
                    goes_on = have and self._begun()
                    kept = f"{have:,} bytes are kept: the same command goes on from there" if goes_on else "try later"
                    raise self._error(f"{cut}, {failures} times in a row", kept) from None
                pause = max(self.limits.pause_s * 2 ** (failures - 1), cut.wait_s)
                pause = min(pause, self.limits.longest_pause_s)
                self._tell(have, None, f"{cut}; going on in {pause:.0f} s")
                time.sleep(pause)
        try:
            self._look_at_content()
            check(self.part)
        except RobustIDPSError:
            self._discard()
            raise
        with writable(self.target):
            self.part.replace(self.target)
            self.note.unlink(missing_ok=True)

    def _try(self) -> None:
        begun = self._begun()
        have = self._have() if begun else 0
        if begun and begun.total is not None and have == begun.total:
            return  # ended between the last byte and the name
        headers = {"User-Agent": f"robustidps/{__version__}", "Accept-Encoding": "identity"}
        if begun and have:
            headers |= {"Range": f"bytes={have}-", "If-Range": begun.validator}
        try:
            request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 - http and https alone: _opener
            response = self.opener.open(request, timeout=self.limits.silence_s)
        except HTTPError as error:
            error.close()
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
            raise self._unreached(error) from None
        with response:
            start, total = self._span(response, begun, have)
            if start == 0:
                self._begin(response, total)
            self._receive(response, start, total)

    def _span(self, response: Any, begun: _Begun | None, have: int) -> tuple[int, int | None]:
        """Where the body begins in the file, and how many bytes the file has; None if the server doesn't say."""
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise self._page()  # what came before is kept: this may be the login of a network on the way
        length = response.headers.get("Content-Length", "")
        announced = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        start, total = 0, announced
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", response.headers.get("Content-Range", ""))
            if begun is None or found is None or int(found[1]) != have or begun.total not in (None, int(found[2])):
                self._discard()
                raise _Cut("the server sent another part than was asked for")
            same = response.headers.get("ETag" if begun.validator.startswith('"') else "Last-Modified")
            if same not in (None, begun.validator):
                self._discard()
                raise _Cut("the file changed at its source")
            start, total = have, int(found[2])
        elif response.status != 200:
            raise self._error(f"answered {response.status} instead of a file", "try later")
        if total is None and self.size is None and not response.chunked:
            raise self._error("doesn't say how long the file is, so that a cut one couldn't be told", "")
        if total is not None and self.size is not None and total != self.size:
            raise self._error(
                f"has {total:,} bytes, expected {self.size:,}", "the file changed at its source, or isn't the one"
            )
        ceiling = self._ceiling(None)
        if total is not None and total > ceiling:
            raise self._error(f"announces {total:,} bytes, more than the limit of {ceiling:,}", "")
        return start, total

    def _receive(self, response: Any, start: int, total: int | None) -> None:
        """Appends the body to the part, at most as much as was announced."""
        ceiling = self._ceiling(total)
        have = start
        since, there = time.monotonic(), have
        with writable(self.part):
            file = self.part.open("r+b", buffering=0)
        with file:
            file.seek(start)
            while True:
                try:
                    block = response.read1(_BLOCK)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise _Cut(f"the connection broke: {_reason(error)}") from None
                if not block:
                    break
                have += len(block)
                if have > ceiling:
                    self._discard()
                    raise self._error(f"sends more than {ceiling:,} bytes", "this isn't the file that was expected")
                with writable(self.part):
                    _write(file, block)
                self._tell(have, total)
                now = time.monotonic()
                if now - since > self.limits.slow_s:
                    if have - there < self.limits.slow_bytes:
                        raise _Cut(f"only {have - there:,} bytes came in {self.limits.slow_s:.0f} s")
                    since, there = now, have
            with writable(self.part):
                os.fsync(file.fileno())
        whole = total if total is not None else self.size
        if whole is not None and have != whole:
            raise _Cut(f"the connection ended after {have:,} of {whole:,} bytes")

    def _begin(self, response: Any, total: int | None) -> None:
        """Readies a part that begins at its first byte, and notes what it is of."""
        expected = total if total is not None else self.size
        with writable(self.part):
            free = shutil.disk_usage(self.part.parent).free + self._have()
            if expected is not None and expected > free:
                raise StorageError(
                    f"needs {expected:,} bytes, {free:,} are free",
                    where=self.part.parent,
                    remedy="free space or name another folder with --to",
                )
            # In this order, so that a kill in between never leaves old bytes beside a note of a new file.
            self.note.unlink(missing_ok=True)
            self.part.open("wb").close()
            begun = _Begun(url=self.url, validator=_validator(response.headers), total=total)
            self.note.write_text(begun.model_dump_json())

    def _begun(self) -> _Begun | None:
        """What the part is of, if there is one that can be gone on with."""
        try:
            begun = _Begun.model_validate_json(self.note.read_bytes()[:65536])
        except (OSError, ValidationError):
            return None
        fits = begun.url == self.url and begun.validator and (begun.total is None or self._have() <= begun.total)
        return begun if fits else None

    def _tell(self, have: int, total: int | None, note: str = "") -> None:
        self.progress(f"fetching {self.target.name}", have, total or self.size, unit="B", note=note)

    def _have(self) -> int:
        try:
            return self.part.stat().st_size
        except OSError:
            return 0

    def _ceiling(self, total: int | None) -> int:
        return min(n for n in (self.limits.bytes, self.size, total) if n is not None)

    def _look_at_content(self) -> None:
        """Refuses a page, and what can't be an archive though it is called one."""
        with self.part.open("rb") as file:
            head = file.read(512)
        if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)\b", head, re.IGNORECASE):
            raise self._page()
        magic, kind = _MAGIC.get(self.target.suffix, (b"", ""))
        if not head.startswith(magic):
            raise self._error(f"sent something that is no {kind}", "the address may have moved")

    def _refused(self, error: HTTPError) -> Exception:
        """What an HTTP status means."""
        if error.code == 416:  # the part is longer than the file by now
            self._discard()
            return _Cut("the file changed at its source")
        if error.code in _PASSING:
            wait = error.headers.get("Retry-After", "")
            return _Cut(f"answered {error.code} {error.reason}", float(wait) if re.fullmatch(r"\d{1,6}", wait) else 0.0)
        if 300 <= error.code < 400:
            return self._error(f"leads to another address more than {_REDIRECTS} times, or to none", "")
        return self._error(f"answered {error.code} {error.reason}", "the address may have moved")

    def _unreached(self, error: Exception) -> Exception:
        """What becomes of a try that got no answer."""
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, _BadRedirect):
            return self._error(str(cause), "")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._error(
                f"its certificate isn't trusted: {cause.verify_message}", "don't go on; look who answers there"
            )
        if isinstance(cause, (ValueError, http.client.InvalidURL)) and not isinstance(cause, OSError):
            return self._error(f"is no address: {cause}", "")
        if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
            return self._error("the name of the host isn't known", "look whether this machine is on the network")
        return _Cut(f"can't be reached: {_reason(cause)}")

    def _page(self) -> UnavailableError:
        return self._error(
            f"sent a web page where {self.target.name} was expected: a form or a login stands in between", ""
        )

    def _error(self, problem: str, remedy: str) -> UnavailableError:
        remedies = "; ".join(text for text in (remedy, self.by_hand) if text)
        return UnavailableError(problem, where=shown(self.url), remedy=remedies or None)

    def _discard(self) -> None:
        for path in (self.part, self.note):
            with contextlib.suppress(OSError):
                path.unlink()


class _BadRedirect(OSError):
    """A redirect that isn't followed. An OSError, so that urllib lets it through."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_repeats, max_redirections = 2, _REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        fp.close()  # urllib would read this answer's body to its end, and it may have none
        to = urlsplit(newurl)
        if to.scheme not in ("http", "https"):
            raise _BadRedirect(f"leads to an address of another kind ({printable(to.scheme, 20)})")
        if urlsplit(req.full_url).scheme == "https" and to.scheme == "http":
            raise _BadRedirect("leads from https back to http, where anyone on the way can change the file")
        if "@" in to.netloc:
            raise _BadRedirect("leads to an address with a user name in it")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """http and https, proxies of the environment, redirects as said above; no file:, ftp: or data:, no cookies."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    opener.addheaders = []
    return opener


def _validator(headers: Any) -> str:
    """What `If-Range` may be given: a strong ETag, else the date; a weak ETag doesn't promise the same bytes."""
    tag = str(headers.get("ETag", ""))
    return (tag if re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', tag) else str(headers.get("Last-Modified", "")))[:200]


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return printable(getattr(error, "strerror", None) or error or type(error).__name__, 200)


def _write(file: Any, block: bytes) -> None:
    """All of `block`: an unbuffered file may take less at once."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]
