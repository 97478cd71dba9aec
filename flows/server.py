"""Prefect's own server for `robustidps up`, answering only those who ask for this machine by name.

Whoever may start a run on a process pool may run what they like, and the local server has no passwords. Prefect
checks neither the Host nor the Origin of a request: a page from elsewhere, open in a browser on this machine, could
reach it, by a name of its own that leads to 127.0.0.1, or with a form or WebSocket that no browser asks about. Both are
refused here. A database elsewhere (`prefect_database_url`) is asked before Prefect is, whose own words on one that
doesn't answer are a traceback.

    python -m robustidps.flows.server --port 4200
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from robustidps.errors import RobustIDPSError
from robustidps.settings import get_settings
from robustidps.system.prefect_database import check_database
from robustidps.system.services import HOST

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["OwnOrigin"]

NAMES = (HOST, "localhost")


class OwnOrigin:
    """Refuses what a page of another origin asks for. Who isn't a browser sends no Origin, and is let through."""

    def __init__(self, app: ASGIApp, origins: frozenset[str]) -> None:
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            told = [value.decode("latin-1") for key, value in scope["headers"] if key == b"origin"]
            if any(origin not in self.origins for origin in told):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008, "reason": "another origin"})
                    return
                from starlette.responses import PlainTextResponse

                await PlainTextResponse("another origin", status_code=403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m robustidps.flows.server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    try:
        settings = get_settings()
        if settings.prefect_url:
            check_database(settings)
    except RobustIDPSError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")

    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = create_app(final=True)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(NAMES), www_redirect=False)
    app.add_middleware(OwnOrigin, origins=frozenset(f"http://{name}:{port}" for name in NAMES))
    uvicorn.run(app, host=HOST, port=port, timeout_keep_alive=5, log_level="warning")


if __name__ == "__main__":
    main()
