"""Slow retrieval: a real server that answers, and goes on answering, a byte at a time."""

from __future__ import annotations

import time

import pytest

from robustidps.errors import RemoteUnavailableError
from robustidps.updates.fetching import HttpFetcher, Limits
from tests.attacks.conftest import Site
from tests.updates.conftest import dripping

LIMITS = Limits(tries=1, silence_s=0.6, headers_s=0.8, window_s=0.3)
WAYS = {
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", b"x"),
    "endless body": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "head": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
    "a chunk's head": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=", b"x"),
    "nothing": (b"", b""),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
}


@pytest.mark.attack("slow retrieval", "RemoteUnavailableError")
@pytest.mark.parametrize("way", WAYS)
def test_slow_retrieval(tmp_path, remote, way, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    head, drop = WAYS[way]
    with dripping(head=head, drop=drop, every_s=0.02 if way != "nothing" else 0.2) as url:
        site = Site(tmp_path / "site", remote, mirrors=[url], fetcher=HttpFetcher(limits=LIMITS))
        began = time.monotonic()
        error = site.refuses(RemoteUnavailableError, "too slowly|can't be had")
        assert time.monotonic() - began < 10  # one that waits for the end of it never comes back
    assert url in str(error)
