"""Small web servers on loopback, in this process: for the demo, benchmarks and tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["Files", "served", "serving"]


class Files(SimpleHTTPRequestHandler):
    """Answers with a folder's files, and says nothing about it."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server that answers as `handler` does, one thread a connection, for the length of a block; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def served(folder: Path, files: type[SimpleHTTPRequestHandler] = Files) -> Iterator[str]:
    """A folder's files, for the length of a block; the address."""
    with serving(partial(files, directory=str(folder))) as address:
        yield address
