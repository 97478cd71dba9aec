"""Real web servers on loopback that a test can have misbehave; a repository, and an installation that takes from it."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from robustidps.settings import use_settings
from robustidps.testing.linear import toy_bundle
from robustidps.testing.remote import MemoryRemote
from robustidps.testing.web import serving
from tests.updates.site import ALL, NOT, installation, lessons


class Server:
    """Serves a folder with ranges, or what `misbehave` does: a function of the handler that may answer itself.

    asked: (path, Range header); served: bytes of bodies that went out; sent: these by path and Range header.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.served = 0
        self.sent: list[tuple[str, str, int]] = []
        self.ranges = True
        self.misbehave = lambda handler: False
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                pass

            def send(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                server.served += len(body)
                server.sent.append((self.path, self.headers.get("Range", ""), len(body)))

            def handle(self):
                with suppress(ConnectionResetError):  # a client that was killed
                    super().handle()

            def do_GET(self):
                self.path = re.sub(r"^http://[^/]+", "", self.path)  # as a proxy gets it
                server.asked.append((self.path, self.headers.get("Range")))
                server.headers.append(dict(self.headers))
                with suppress(BrokenPipeError, ConnectionResetError):
                    if server.misbehave(self):
                        self.close_connection = True
                        return
                    file = server.folder / self.path.lstrip("/")
                    if not file.is_file():
                        return self.send(404)
                    data = file.read_bytes()
                    if server.ranges and (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
                        start = int(found[1])
                        if start >= len(data):
                            return self.send(416, Content_Range=f"bytes */{len(data)}")
                        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
                        return self.send(206, data[start:], Content_Range=span)
                    self.send(200, data)

        self._running = serving(Handler)
        self.url = self._running.__enter__()

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@contextmanager
def dripping(*, head: bytes, drop: bytes, every_s: float):
    """A raw server that answers with `head` at once and then with `drop`, again and again; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            peer.recv(65_536)
            peer.sendall(head)
            while not ended.wait(every_s):
                peer.sendall(drop)

    def serve() -> None:
        with suppress(OSError):
            while not ended.is_set():
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        listener.close()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www").mkdir()
    server = Server(tmp_path / "www")
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("bundle") / "b", rows=100)


@pytest.fixture
def remote(bundle) -> MemoryRemote:
    return MemoryRemote.offering(bundle)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """By version: 1.0.0 never learnt, 1.1.0 did, the others never did; two of another model."""
    folder = tmp_path_factory.mktemp("bundles")
    made = lessons(folder / "toy", {"1.0.0": NOT, "1.1.0": ALL, "1.2.0": NOT, "1.0.5": NOT})
    away = lessons(folder / "away", {"1.0.0": NOT, "1.1.0": NOT}, name="away")
    return made | {"away": away["1.0.0"], "away 1.1.0": away["1.1.0"]}


@pytest.fixture
def site(tmp_path, bundles):
    """An installation with 1.0.0 in production, held-out traffic of its own, and automatic updates on."""
    registry = installation(tmp_path / "home", bundles["1.0.0"].path)
    with use_settings(registry.settings):
        yield registry


def until(condition, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
