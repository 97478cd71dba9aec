"""The watcher as a service in the foreground: one thread looks, another answers HTTP.

    POST /mlflow    a webhook of MLflow's: 202 where it is credible (200 where it came before), 401 where it isn't,
                    413 where it is too big; the worker looks at the model that it names, or at all
    GET  /health    200 and what the watcher has done; 503 once its worker has ended

The worker alone talks to MLflow. It looks at every model every `interval_s`, and at once where a hint has come.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from robustidps.errors import NameInvalidError, NotFoundError, RobustIDPSError, UnavailableError, printable
from robustidps.registry.reconciler import reconcile
from robustidps.settings import check_name
from robustidps.watch.periodic import PERIODIC, Periodic
from robustidps.watch.webhook import Unbelievable, check, register, remember, secret_of

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from robustidps.registry.registry import ModelRegistry

__all__ = ["Watcher", "serve"]

log = logging.getLogger(__name__)

BODY_LIMIT = 65_536
"""Bytes of a webhook; MLflow's are some hundred."""
REGISTER_EVERY_S = 300.0
ALL = ""
COUNTED = ("looks", "hints", "refused hints", "kept", "put back", "put back again", "made again", "lost")


@dataclass
class Watcher:
    """Looks at one registry; `app` is what answers HTTP.

    Args:
        interval_s: seconds between two looks at everything.
        url: where MLflow reaches `/mlflow`; None: MLflow isn't told of it.
        periodic: further work; default: `PERIODIC`.
    """

    registry: ModelRegistry
    interval_s: float = 10.0
    url: str | None = None
    periodic: list[Periodic] = field(default_factory=lambda: list(PERIODIC))

    def __post_init__(self) -> None:
        self.secret = secret_of(self.registry.settings)
        self.counts = dict.fromkeys(COUNTED, 0)
        self.problem: str | None = None
        self.webhook = "not told to MLflow" if self.url is None else "not told to MLflow yet"
        self.looked_at: float | None = None
        self._hints: set[str] = set()
        self._wake = threading.Condition()
        self._ending = False
        self._webhook_id: str | None = None
        self._due: dict[str, float] = {}
        self._worker = threading.Thread(target=self._run, name="robustidps-watch", daemon=True)

    # --- the worker

    def start(self) -> None:
        self._worker.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Lets the worker end what it is at; a decision that is cut short is completed by the next run anyway."""
        with self._wake:
            self._ending = True
            self._wake.notify_all()
        self._worker.join(timeout_s)

    def hint(self, name: str = ALL) -> None:
        """Has the worker look at a model, or at all, as soon as it can."""
        with self._wake:
            self._hints.add(name)
            self.counts["hints"] += 1
            self._wake.notify_all()

    def _run(self) -> None:
        everything_at = 0.0
        while True:
            with self._wake:
                while not self._ending and not self._hints and time.monotonic() < everything_at:
                    self._wake.wait(max(0.0, everything_at - time.monotonic()))
                if self._ending:
                    return
                hints, self._hints = self._hints, set()
            if time.monotonic() >= everything_at:
                hints = {ALL}
                everything_at = time.monotonic() + self.interval_s
            for name in {ALL} if ALL in hints else hints:
                self.look(name)
            self._tell_mlflow()
            self._do_periodic()

    def look(self, name: str = ALL) -> None:
        """Answers what there is to answer, of one model or all; what hinders it is logged, and tried again."""
        try:
            found = reconcile(self.registry, name or None)
        except NotFoundError as error:  # a hint about a model that isn't ours
            log.info("%s", error)
            return
        except RobustIDPSError as error:
            self._problem(str(error))
            return
        except Exception as error:  # the service outlives a defect, and says it
            log.exception("the look failed")
            self._problem(f"{type(error).__name__}: {error}")
            return
        failed = [f for f in found if f.outcome == "failed"]
        for finding in found:
            log.info("%s", finding)
            if finding.outcome in self.counts:
                self.counts[finding.outcome] += 1
        if name == ALL or failed:
            self._problem("; ".join(str(f) for f in failed) or None)
        self.counts["looks"] += 1
        self.looked_at = time.time()

    def _problem(self, text: str | None) -> None:
        text = None if text is None else printable(text, 1000)
        if text != self.problem:
            log.warning("%s", text) if text else log.info("all is well again")
        self.problem = text

    def _tell_mlflow(self) -> None:
        if self.url is None or time.monotonic() < self._due.get("webhook", 0.0):
            return
        name = f"robustidps-{self.registry.ledger.key.key_id[:12]}"
        self._due["webhook"] = time.monotonic() + REGISTER_EVERY_S
        try:
            found = register(self.registry.tracking, name, self.url, self.secret, known=self._webhook_id)
        except RobustIDPSError as error:
            said = f"MLflow isn't told, requests are found by looking every {self.interval_s:g} s: {error}"
        else:
            self._webhook_id, said = found.id, f"MLflow tells {self.url}"
        if said != self.webhook:
            log.info("%s", said)
        self.webhook = said

    def _do_periodic(self) -> None:
        for work in self.periodic:
            if time.monotonic() < self._due.get(work.name, 0.0):
                continue
            self._due[work.name] = time.monotonic() + work.every_s
            try:
                for done in work.call(self.registry):
                    log.info("%s: %s", work.name, printable(done, 500))
            except RobustIDPSError as error:
                log.warning("%s: %s", work.name, error)
            except Exception:  # work of other parts doesn't end the watch
                log.exception("%s failed", work.name)

    # --- HTTP

    def health(self) -> dict[str, Any]:
        """What `/health` says. status: `ok`; `degraded` where the last look failed; `ended`."""
        alive = self._worker.is_alive()
        return {
            "status": "ended" if not alive else "degraded" if self.problem else "ok",
            "problem": self.problem,
            "looked_s_ago": None if self.looked_at is None else round(time.time() - self.looked_at, 1),
            "interval_s": self.interval_s,
            "webhook": self.webhook,
            **self.counts,
        }

    @property
    def app(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def health(request: Request) -> Response:
            said = self.health()
            return JSONResponse(said, 503 if said["status"] == "ended" else 200)

        async def hook(request: Request) -> Response:
            body = b""
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    return JSONResponse({"error": "too big"}, 413)
            code = await run_in_threadpool(self.receive, dict(request.headers), body)
            return JSONResponse({"status": {202: "taken", 200: "seen before"}.get(code, "refused")}, code)

        return Starlette(
            routes=[Route("/health", health, methods=["GET"]), Route("/mlflow", hook, methods=["POST"])],
        )

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """The HTTP status of a webhook; where it is credible and new, the worker looks."""
        try:
            delivery = check(headers, body, self.secret, time.time())
            if not remember(self.registry.store, delivery):
                log.info("webhook %s came before", printable(delivery, 60))
                return 200
        except Unbelievable as why:
            self.counts["refused hints"] += 1
            log.warning("webhook refused: %s", why)
            return 401
        except RobustIDPSError as error:
            log.warning("webhook not taken: %s", error)
            return 503
        self.hint(_model_in(body))
        return 202


def _model_in(body: bytes) -> str:
    try:
        return check_name(json.loads(body)["data"]["name"])
    except (ValueError, KeyError, TypeError, NameInvalidError):
        return ALL


def serve(watcher: Watcher, host: str, port: int) -> None:
    """Runs until SIGTERM or Ctrl-C, which uvicorn catches and passes on once all has ended.

    Raises:
        UnavailableError: the address is taken; starlette or uvicorn isn't installed.
    """
    import socket

    try:
        import uvicorn
    except ModuleNotFoundError:
        from robustidps.errors import MissingExtraError

        raise MissingExtraError("the watcher's web server", "mlops") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise UnavailableError(
                f"can't listen: {error.strerror}", where=f"{host}:{port}", remedy="name another --port"
            ) from None
        config = uvicorn.Config(
            watcher.app, log_level="warning", access_log=False, h11_max_incomplete_event_size=16_384,
            timeout_keep_alive=5, timeout_graceful_shutdown=5, limit_concurrency=64, lifespan="off",
        )  # fmt: skip
        watcher.start()
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            watcher.stop()


def webhook_url(tracking_uri: str, host: str, port: int, given: str | None) -> str | None:
    """Where MLflow is told to send webhooks: `given`; else this service, where MLflow is a server on this machine."""
    if not tracking_uri.startswith(("http://", "https://")):
        return None  # an embedded MLflow sends none
    if given:
        return given.rstrip("/") + "/mlflow"
    local = urlsplit(tracking_uri).hostname in ("127.0.0.1", "localhost", "::1")
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/mlflow" if local else None
