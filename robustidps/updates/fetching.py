"""Downloads for updates: bounded in bytes, time and tries; targets go on where they were cut.

What comes is never believed here: metadata is judged by TUF, a target by the length and SHA-256 that signed metadata
gives. So the question is only what a server, or whoever relays it, can make this machine spend.

    ResumingFetcher   a tuf fetcher that can also fetch a target in pieces, kept in a file named for its SHA-256
    HttpFetcher       ... over urllib3

A partial file has its target's SHA-256 as its name: another mirror, or the next process, goes on with it. Whoever sent
wrong bytes at its beginning is found out at its end; then it is thrown away and fetched anew, once.

Proxies are those of the environment (`https_proxy`, `no_proxy`, ..), as tuf's own fetcher has them. Redirects lead to
http and https alone and never from https to http. Nothing is sent but a Range and our name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import urllib3
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    LengthOrHashMismatchError,
    SlowRetrievalError,
)
from tuf.ngclient import FetcherInterface
from tuf.ngclient._internal.proxy import ProxyEnvironment  # tuf is pinned below 8; see client.py
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from robustidps.errors import StorageError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import writable

__all__ = ["HttpFetcher", "Limits", "ResumingFetcher"]

_BLOCK = 1 << 18
_HEADWAY = 1 << 16  # bytes that make a try count as one that brought something
_REDIRECTS = 5
_PART_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that a later try may not see."""


@dataclass(frozen=True)
class Limits:
    """What a mirror may cost before the next one is asked."""

    tries: int = 3  # to reach it; and in a row of a target that brought nothing
    pause_s: float = 0.5  # before the second try; doubles from try to try
    connect_s: float = 15.0
    silence_s: float = 20.0  # between two packets
    headers_s: float = 30.0  # from the question to the end of the answer's head
    window_s: float = 20.0  # over which speed is measured
    floor: float = 1024.0  # bytes a second that must come on average over a window


class ResumingFetcher(FetcherInterface):
    """What a fetcher for updates must offer. A subclass needs `_fetch(url)`, and `_fetch_from` where it can resume."""

    tries = 3
    pause_s = 0.5

    def _fetch_from(self, url: str, start: int) -> tuple[int, Iterator[bytes]]:
        """(where the content begins, content): at `start` if the server can do that, else at 0. May raise as _fetch."""
        return 0, self.fetch(url)

    def fetch_target(
        self,
        url: str,
        length: int,
        sha256: str,
        folder: Path,
        *,
        stage: str = "downloading",
        progress: Progress = silent,
    ) -> Path:
        """The whole target, in `folder`, which is there, under its SHA-256 as name. Who takes it moves it away.

        Args:
            length: bytes; sha256: in hex. Both from signed metadata.

        Raises:
            LengthOrHashMismatchError, DownloadLengthMismatchError: another file; nothing of it is kept.
            DownloadError: no answer, or cut off; what came is kept for the next try.
            StorageError: no room, or not writable.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise LengthOrHashMismatchError("signed metadata gives no SHA-256")
        part = folder / sha256
        while True:
            resumed = self._complete(url, length, part, stage, progress)
            with writable(part), part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found == sha256:
                return part
            part.unlink()
            if not resumed:
                raise LengthOrHashMismatchError(f"has SHA-256 {found[:12]}.., signed is {sha256[:12]}..")

    def _complete(self, url: str, length: int, part: Path, stage: str, progress: Progress) -> bool:
        """Fetches until `length` bytes are there. Whether it began with some that were there before."""
        with writable(part):
            file = _opened(part)
        with file:
            have = os.fstat(file.fileno()).st_size
            if have > length:  # of something else, then
                file.truncate(0)
                have = 0
            _check_room(part.parent, length - have)
            resumed, best, failures = have > 0, have, 0
            progress(stage, have, length, unit="B")
            while have < length:
                try:
                    start, chunks = self._fetch_from(url, have)
                    resumed = resumed and start > 0
                    self._append(file, start, chunks, length, stage, progress)
                    cut = DownloadError(f"ends before its {length:,} bytes")
                except (DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError):
                    raise
                except DownloadError as error:
                    cut = error
                have = os.fstat(file.fileno()).st_size
                if have >= length:
                    break
                failures = 1 if have - best >= _HEADWAY else failures + 1
                best = max(best, have)
                if failures >= self.tries:
                    raise DownloadError(f"{cut} ({have:,} of {length:,} bytes came, {failures} tries in a row)")
                time.sleep(self.pause_s * 2 ** (failures - 1))
            return resumed

    @staticmethod
    def _append(
        file: IO[bytes], start: int, chunks: Iterator[bytes], length: int, stage: str, progress: Progress
    ) -> None:
        path = Path(file.name)
        with writable(path):
            file.seek(start)
            file.truncate()
        have = start
        try:
            for chunk in chunks:
                have += len(chunk)
                if have > length:
                    file.truncate(0)
                    raise DownloadLengthMismatchError(f"sends more than the {length:,} bytes that are signed")
                with writable(path):
                    left = memoryview(chunk)
                    while left:
                        left = left[file.write(left) :]
                progress(stage, have, length, unit="B")
        finally:
            if isinstance(chunks, Generator):
                chunks.close()  # which lets go of the connection
        with writable(path):
            os.fsync(file.fileno())


def _opened(part: Path) -> IO[bytes]:
    return open(part, "r+b", buffering=0, opener=lambda path, _: os.open(path, _PART_FLAGS, 0o600))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(f"needs {needed:,} bytes, {free:,} are free", where=folder, remedy="free space")


class HttpFetcher(ResumingFetcher):
    """Over http and https.

    Args:
        max_bytes_per_second: how fast it loads at most, on average over a moment; None: as fast as comes.
    """

    def __init__(self, *, limits: Limits = Limits(), max_bytes_per_second: float | None = None) -> None:
        self.limits, self.rate = limits, max_bytes_per_second
        self.tries, self.pause_s = limits.tries, limits.pause_s
        self._proxies = ProxyEnvironment(headers={"User-Agent": "robustidps", "Accept-Encoding": "identity"})
        self._pools = _pools(limits.headers_s)

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._chunks(self._open(url, {}))

    def _fetch_from(self, url: str, start: int) -> tuple[int, Iterator[bytes]]:
        response = self._open(url, {"Range": f"bytes={start}-"} if start else {})
        if response.status == 206 and start:
            found = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                response.close()
                response = self._open(url, {})  # a range that wasn't asked for: without one, then
        elif response.status == 416:
            response.close()
            response = self._open(url, {})
        if response.status in (206, 200):
            return (start if response.status == 206 else 0), self._chunks(response)
        response.close()
        raise DownloadHTTPError(f"answered {response.status}", response.status)

    def _open(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """The answer, after redirects and tries; its body has not been read. 416 is handed on to who asked for a range.

        Raises:
            DownloadHTTPError: an error status. SlowRetrievalError: no answer in time. DownloadError: not reached.
        """
        for redirects in range(_REDIRECTS + 1):
            response = self._patiently(url, headers)
            if response.status not in (301, 302, 303, 307, 308):
                break
            to = response.headers.get("Location", "")
            response.close()
            if redirects == _REDIRECTS or not to:
                raise DownloadError(f"redirects more than {_REDIRECTS} times, or to nowhere")
            url = _redirected(url, to)
        if response.status in (200, 206) or (response.status == 416 and "Range" in headers):
            return response
        response.close()
        raise DownloadHTTPError(f"answered {response.status}", response.status)

    def _patiently(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        pause = self.limits.pause_s
        for left in range(self.limits.tries - 1, -1, -1):
            try:
                response = self._ask(url, headers)
                if response.status not in _PASSING or not left:
                    return response
                response.close()
            except urllib3.exceptions.TimeoutError as error:
                raise SlowRetrievalError(f"didn't answer in time: {_reason(error)}") from None
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                if not left:
                    raise DownloadError(_reason(error)) from None
            time.sleep(pause)
            pause *= 2
        raise DownloadError("wasn't asked")  # tries is at least 1

    def _ask(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DownloadError(f"{printable(parts.scheme, 20)!r} is no address of a web server")
        manager = self._proxies.get_pool_manager(parts.scheme, parts.hostname)
        manager.pool_classes_by_scheme = self._pools
        return manager.request(
            "GET",
            url,
            headers={**manager.headers, **headers},
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=self.limits.connect_s, read=self.limits.silence_s),
        )

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """The body, no faster than allowed and no slower than the floor. It ends where the server ends it."""
        limits = self.limits
        floor = limits.floor if self.rate is None else min(limits.floor, self.rate / 4)
        block = _BLOCK if self.rate is None else max(1024, min(_BLOCK, int(self.rate / 8)))
        began = since = time.monotonic()
        total = there = 0
        length = response.headers.get("Content-Length", "")
        announced = int(length) if re.fullmatch(r"\d{1,18}", length) else 0
        with response, _Watchdog(response, 2 * limits.window_s + limits.silence_s) as watchdog:
            while True:
                try:
                    data = response.read1(block)
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    if watchdog.bit or isinstance(error, urllib3.exceptions.TimeoutError):
                        raise SlowRetrievalError(f"sent nothing for {limits.silence_s:g} s") from None
                    raise DownloadError(f"the connection broke: {_reason(error)}") from None
                if watchdog.bit:
                    raise SlowRetrievalError("sent next to nothing")
                if not data:
                    if total < announced:
                        raise DownloadError(f"the connection ended after {total:,} of {announced:,} bytes")
                    return
                total += len(data)
                yield data
                if self.rate is not None:
                    time.sleep(max(0.0, total / self.rate - (time.monotonic() - began)))
                now = time.monotonic()
                if now - since >= limits.window_s:
                    if total - there < floor * (now - since):
                        raise SlowRetrievalError(
                            f"sent {total - there:,} bytes in {now - since:.0f} s, less than {floor:g} a second"
                        )
                    since, there = now, total
                    watchdog.pat()


class _Watchdog:
    """Ends an answer that keeps a single read from returning, a byte at a time (in a chunk's head, say)."""

    _timer: threading.Timer

    def __init__(self, response: urllib3.BaseHTTPResponse, seconds: float) -> None:
        self.response, self.seconds, self.bit = response, seconds, False

    def _bite(self) -> None:
        self.bit = True
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has just ended by itself
            self.response.shutdown()

    def _start(self) -> threading.Timer:
        timer = threading.Timer(self.seconds, self._bite)
        timer.daemon = True
        timer.start()
        return timer

    def pat(self) -> None:
        self._timer.cancel()
        self._timer = self._start()

    def __enter__(self) -> _Watchdog:
        self._timer = self._start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._timer.cancel()


def _pools(seconds: float) -> dict[str, Any]:
    """urllib3's pools whose connections give up on an answer's head that isn't there within `seconds` as a whole.

    A time limit on a socket is one on silence: a header that drips would keep it waiting for ever.
    """

    def getresponse(connection: Any, original: Any) -> Any:
        late = threading.Event()

        def end() -> None:
            late.set()
            with contextlib.suppress(OSError, AttributeError):  # it is closed already
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            response = original(connection)
        except Exception:
            if late.is_set():
                raise TimeoutError(f"no answer within {seconds:g} s") from None
            raise
        finally:
            timer.cancel()
        if late.is_set():  # a head that ends in the middle is a head to http.client
            response.close()
            raise TimeoutError(f"no answer within {seconds:g} s")
        return response

    class Plain(HTTPConnection):
        def getresponse(self) -> Any:
            return getresponse(self, HTTPConnection.getresponse)

    class Secure(HTTPSConnection):
        def getresponse(self) -> Any:
            return getresponse(self, HTTPSConnection.getresponse)

    plain = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
    secure = type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure})
    return {"http": plain, "https": secure}


def _redirected(url: str, to: str) -> str:
    try:
        new = urljoin(url, to)
        scheme, before = urlsplit(new).scheme, urlsplit(url).scheme
    except ValueError:
        raise DownloadError("redirects to what is no address") from None
    if scheme not in ("http", "https"):
        raise DownloadError(f"redirects to {printable(scheme, 20)!r}, which is not followed")
    if before == "https" and scheme == "http":
        raise DownloadError("redirects from https to http, which is not followed")
    return new


def _reason(error: BaseException) -> str:
    """What an exception of the network says, without addresses of memory or of the proxy's user."""
    said = getattr(error, "original_error", None) or getattr(error, "reason", None) or error
    text = re.sub(r"<[^>]*>:? ?|(HTTPS?Connection(Pool)?|Plain|Secure)\([^)]*\):? ?", "", str(said)).strip()
    return printable(text or type(error).__name__, 200)
