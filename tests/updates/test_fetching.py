"""Downloads from a real web server on loopback, which breaks off, lies, redirects, drips or isn't there."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    LengthOrHashMismatchError,
    SlowRetrievalError,
)

from robustidps.errors import StorageError
from robustidps.updates.fetching import HttpFetcher, Limits
from tests.updates.conftest import Server, dripping, until

DATA = bytes(range(256)) * 4000  # 1,024,000 bytes
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = Limits(tries=3, pause_s=0.01, connect_s=2, silence_s=1.0, headers_s=1.0, window_s=0.3)


@pytest.fixture
def fetcher() -> HttpFetcher:
    return HttpFetcher(limits=QUICK)


@pytest.fixture
def partials(tmp_path) -> Path:
    folder = tmp_path / "partial"
    folder.mkdir()
    return folder


@pytest.fixture
def file(server) -> str:
    (server.folder / "model").write_bytes(DATA)
    return f"{server.url}/model"


def fetch(fetcher, url, partials, **options) -> bytes:
    return fetcher.fetch_target(url, len(DATA), SHA, partials, **options).read_bytes()


def test_a_target_comes_whole_and_progress_says_how_far(fetcher, file, partials):
    told = []

    def progress(stage, done, total=None, *, unit="", note=""):
        told.append((stage, done, total, unit))

    assert fetch(fetcher, file, partials, stage="downloading toy 1.0.0", progress=progress) == DATA
    assert told[0] == ("downloading toy 1.0.0", 0, len(DATA), "B") and told[-1][1] == len(DATA)
    assert [p.name for p in partials.iterdir()] == [SHA]


def test_nothing_is_sent_but_a_range_and_our_name(fetcher, server, file, partials):
    (partials / SHA).write_bytes(DATA[:1000])
    fetch(fetcher, file, partials)
    sent = {k: v for k, v in server.headers[0].items() if k != "Host"}
    assert sent == {"User-Agent": "robustidps", "Accept-Encoding": "identity", "Range": "bytes=1000-"}


def test_a_killed_process_leaves_a_partial_that_the_next_goes_on_with(server, file, partials):
    """kill -9 in the middle: what is fetched afterwards is the rest, to the byte."""
    half = len(DATA) // 2

    def stall_after_half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:half])
        time.sleep(20)
        return True

    server.misbehave = stall_after_half
    program = (
        "import sys; from pathlib import Path; from robustidps.updates.fetching import HttpFetcher\n"
        "HttpFetcher().fetch_target(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))"
    )
    command = [sys.executable, "-c", program, file, str(len(DATA)), SHA, str(partials)]
    with subprocess.Popen(command) as process:
        until(lambda: (partials / SHA).exists() and (partials / SHA).stat().st_size == half, 20)
        process.kill()
    server.misbehave = lambda handler: False
    server.served = 0
    assert fetch(HttpFetcher(), file, partials) == DATA
    assert server.served == len(DATA) - half and server.asked[-1] == ("/model", f"bytes={half}-")


def test_a_connection_that_breaks_goes_on_in_the_same_call(fetcher, server, file, partials):
    def break_once(handler):
        if len(server.asked) > 1:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:300_000])
        return True

    server.misbehave = break_once
    assert fetch(fetcher, file, partials) == DATA
    assert server.asked == [("/model", None), ("/model", "bytes=300000-")]


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it(fetcher, server, file, partials):
    (partials / SHA).write_bytes(DATA[:1000])
    server.ranges = False
    assert fetch(fetcher, file, partials) == DATA
    assert server.served == len(DATA)


def test_a_server_that_ignores_ranges_and_breaks_off_each_time_is_given_up(fetcher, server, file, partials):
    server.ranges = False

    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:200_000])
        return True

    server.misbehave = cut
    with pytest.raises(DownloadError, match=r"3 tries in a row"):
        fetch(fetcher, file, partials)
    assert len(server.asked) <= 4


def test_a_server_that_answers_416_is_asked_for_all_of_it(fetcher, server, file, partials):
    (partials / SHA).write_bytes(DATA[:1000])
    server.misbehave = lambda handler: handler.headers.get("Range") and (handler.send(416) or True)
    assert fetch(fetcher, file, partials) == DATA


def test_another_range_than_the_one_asked_for_is_not_appended(fetcher, server, file, partials):
    (partials / SHA).write_bytes(DATA[:1000])
    server.misbehave = lambda handler: (
        handler.headers.get("Range") and (handler.send(206, DATA[:5], Content_Range="bytes 0-4/5") or True)
    )
    assert fetch(fetcher, file, partials) == DATA


def test_a_partial_that_turns_out_wrong_is_thrown_away_and_fetched_anew_once(fetcher, server, file, partials):
    (partials / SHA).write_bytes(b"poison" * 100)
    assert fetch(fetcher, file, partials) == DATA
    assert server.asked == [("/model", "bytes=600-"), ("/model", None)]


def test_a_partial_that_is_too_long_is_thrown_away(fetcher, server, file, partials):
    (partials / SHA).write_bytes(DATA + b"x")
    assert fetch(fetcher, file, partials) == DATA


def test_a_link_in_place_of_a_partial_is_not_followed(fetcher, file, partials, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (partials / SHA).symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match="links"):
        fetch(fetcher, file, partials)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_wrong_bytes_are_refused_and_not_kept(fetcher, server, file, partials):
    (server.folder / "model").write_bytes(DATA[::-1])
    with pytest.raises(LengthOrHashMismatchError, match="SHA-256"):
        fetch(fetcher, file, partials)
    assert not list(partials.iterdir()) and len(server.asked) == 1


def test_more_than_was_signed_is_cut_off(fetcher, server, file, partials):
    (server.folder / "model").write_bytes(DATA + bytes(10_000_000))
    with pytest.raises(DownloadLengthMismatchError, match="sends more than the"):
        fetch(fetcher, file, partials)
    assert sum(p.stat().st_size for p in partials.iterdir()) == 0


def test_a_rate_is_kept(file, partials):
    began = time.monotonic()
    assert fetch(HttpFetcher(limits=QUICK, max_bytes_per_second=2_000_000), file, partials) == DATA
    assert time.monotonic() - began > 0.45  # at least: 1,024,000 bytes at 2,000,000 a second


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_trouble_is_tried_again(fetcher, server, file, status):
    server.misbehave = lambda handler: len(server.asked) < 3 and (handler.send(status) or True)
    assert fetcher.download_bytes(file, len(DATA)) == DATA
    assert len(server.asked) == 3


def test_an_error_that_stays_is_told_with_its_status(fetcher, server):
    with pytest.raises(DownloadHTTPError) as caught:
        fetcher.download_bytes(f"{server.url}/nothing", 10)
    assert caught.value.status_code == 404 and len(server.asked) == 1


def test_a_server_that_is_down_is_told(fetcher):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DownloadError, match="refused"):
        fetcher.download_bytes(f"http://127.0.0.1:{port}/x", 10)


def test_a_server_that_says_nothing_is_told(fetcher):
    with dripping(head=b"", drop=b"", every_s=10) as url, pytest.raises(SlowRetrievalError, match="in time"):
        fetcher.download_bytes(f"{url}/x", 10)


def test_a_metadata_file_that_is_cut_off_is_not_taken_for_whole(fetcher, server):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"{}")
        return True

    server.misbehave = cut
    with pytest.raises(DownloadError):
        fetcher.download_bytes(f"{server.url}/x", 1000)


def test_redirects_are_followed_within_http(fetcher, server, file):
    server.misbehave = lambda handler: handler.path == "/old" and (handler.send(302, Location="/model") or True)
    assert fetcher.download_bytes(f"{server.url}/old", len(DATA)) == DATA


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "", "/loop", "data:,x", "http://[::1"])
def test_redirects_that_lead_elsewhere_or_nowhere_are_not_followed(fetcher, server, to):
    server.misbehave = lambda handler: handler.send(302, Location=to) or True
    with pytest.raises(DownloadError, match=r"redirects|no address"):
        fetcher.download_bytes(f"{server.url}/loop", 10)
    assert len(server.asked) <= 6


def test_a_redirect_from_https_to_http_is_not_followed():
    from robustidps.updates.fetching import _redirected

    with pytest.raises(DownloadError, match="from https to http"):
        _redirected("https://models.example.org/x", "http://models.example.org/x")
    assert _redirected("http://models.example.org/x", "https://other.example.org/y") == "https://other.example.org/y"


def test_requests_go_through_the_proxy_that_the_environment_names(server, file, monkeypatch):
    proxy = Server(server.folder)
    try:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        assert HttpFetcher(limits=QUICK).download_bytes("http://models.example.org/model", len(DATA)) == DATA
        assert proxy.asked == [("/model", None)] and not server.asked
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert HttpFetcher(limits=QUICK).download_bytes(file, len(DATA)) == DATA
        assert len(proxy.asked) == 1 and len(server.asked) == 1
    finally:
        proxy.stop()


def test_https_asks_the_proxy_for_a_tunnel(server, monkeypatch):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def answer():
            peer = listener.accept()[0]
            asked.append(peer.recv(4096))
            peer.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            peer.close()

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(DownloadError) as caught:
            HttpFetcher(limits=Limits(tries=1)).download_bytes("https://models.example.org/x", 10)
    assert asked[0].startswith(b"CONNECT models.example.org:443")
    assert "secret" not in str(caught.value)
