"""The report pages over HTTP: read-only, on an origin of their own, so that no page can touch MLflow's or Prefect's.

Whatever stands in a page, the browser is told what it may do: nothing is loaded or sent, nothing is framed, and the
document is sandboxed, which takes away its origin as well. Our own pages run no script. Evidently's need inline script
to draw, and only they may, still without a network.

A request is for a regular file below the folder of reports, by a path of plain names; folders are opened one by one
without following links. Requests under another host's name are refused, so that a page elsewhere can't have a browser
read reports by pointing its own name here (DNS rebinding).
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import ConfigError, MissingExtraError, UnavailableError, printable

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["HOST", "PORT", "application", "policy", "serve"]

log = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 4300
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_BASE = (
    "default-src 'none'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PLAIN = f"{_BASE}; style-src 'unsafe-inline'; sandbox allow-top-navigation-by-user-activation"
_SCRIPTED = (
    f"{_BASE}; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; connect-src 'none'; "
    "worker-src 'none'; sandbox allow-scripts"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def policy(parts: Sequence[str]) -> str:
    """The content security policy of the file at these names below HOME/reports.

    Evidently's pages are `evidently.html` beside a window's own, and `MODEL/VERSION/drift.html` of a training.
    """
    training = len(parts) == 3 and parts[-1] == "drift.html"
    window = len(parts) == 4 and parts[0] == "drift" and parts[-1] == "evidently.html"
    return _SCRIPTED if training or window else _PLAIN


def application(reports: Path, hosts: Sequence[str]) -> Any:
    """The ASGI application.

    Args:
        reports: the folder that is served; need not exist yet.
        hosts: what the Host header may be, `NAME:PORT`.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise MissingExtraError("Starlette", "serve") from None
    allowed = {host.lower() for host in hosts}

    def answered(request: Request) -> Response:
        if request.headers.get("host", "").lower() not in allowed:
            return PlainTextResponse("This is not a name that these pages are served under.\n", 421)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("These pages can only be read.\n", 405, {"Allow": "GET, HEAD"})
        path = request.scope["path"]
        if path == "/health":
            return JSONResponse({"status": "ok"})
        if path == "/":
            return RedirectResponse("/index.html", 307)
        parts = path.removeprefix("/").split("/")
        content = _content(reports, parts)
        if content is None:
            return PlainTextResponse("There is no such report; old ones are taken away (docs/retention.md).\n", 404)
        headers = {"Content-Security-Policy": policy(parts)}
        return Response(content, media_type=_TYPES[Path(parts[-1]).suffix], headers=headers)

    async def answer(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        response = await run_in_threadpool(answered, request)
        told = printable(request.scope["path"], 200)
        log.info("%s %s %d", printable(request.method, 10), told, response.status_code)
        for name, value in {"Content-Security-Policy": _PLAIN, **_HEADERS}.items():
            response.headers.setdefault(name, value)
        return response

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods)])


def _content(reports: Path, parts: Sequence[str]) -> bytes | None:
    """A file's content; None where there is none that may be read."""
    if not all(_NAME.fullmatch(part) and ".." not in part for part in parts):
        return None
    if Path(parts[-1]).suffix not in _TYPES or parts[0] == "evidently":  # the workspace is Evidently's
        return None
    opened: list[int] = []
    try:
        opened.append(os.open(reports, os.O_RDONLY | os.O_DIRECTORY))
        for part in parts[:-1]:
            opened.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        # Without O_NONBLOCK a pipe that lies there would hold the request for ever.
        opened.append(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[-1]))
        if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
            return None
        with os.fdopen(opened.pop(), "rb") as file:
            return file.read()
    except OSError:
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def serve(reports: Path, *, host: str = HOST, port: int = PORT, names: Sequence[str] = ()) -> None:
    """Serves reports until it is ended by SIGINT or SIGTERM; a line a request goes to standard error.

    Args:
        names: further names (`reports.example.org`, or with a port) that people reach the pages under.

    Raises:
        ConfigError: an address beyond loopback, and no name for it.
        UnavailableError: the port is taken. MissingExtraError: Starlette or uvicorn isn't installed.
    """
    import socket

    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "serve") from None
    if host not in (HOST, "localhost", "::1") and not names:
        raise ConfigError(
            f"{host} is reachable from elsewhere, and no name is allowed for it",
            where="--host",
            remedy="say under which name people come, with --name reports.example.org:PORT",
        )
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UnavailableError(
            f"can't listen: {error.strerror}", where=f"{host}:{port}", remedy="name another port with --port"
        ) from None
    port = listening.getsockname()[1]
    hosts = [f"{name}:{port}" for name in (HOST, "localhost", "[::1]")]
    hosts += [name for given in names for name in (given, f"{given}:{port}")]
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    log.info("report pages at http://%s:%d/", f"[{host}]" if ":" in host else host, port)
    config = uvicorn.Config(
        application(reports, hosts), log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    config.load()
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
