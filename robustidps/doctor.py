"""Looks over an installation: what is installed, reachable and writable, and what to do about the rest."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustidps.errors import RobustIDPSError, printable
from robustidps.families import discover
from robustidps.plugins import ANY
from robustidps.settings import Settings, writable

__all__ = ["Finding", "examine"]

NEEDED_BYTES = 3 * 2**30
"""Free space that the demo may need, with room to spare."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `warn` means that something optional is missing, `fail` that the main job won't work."""

    what: str
    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Looks at one thing after another; never raises for what it finds."""
    yield _python()
    yield from _parts()
    yield from _families()
    yield from _plugins(settings)
    yield _loihi(settings)
    yield _guarded("home folder", lambda: _home(settings))
    yield _guarded("state store", lambda: _state(settings))
    yield _guarded("decision ledger", lambda: _ledger(settings))
    yield _guarded("MLflow", lambda: _mlflow(settings))
    if settings.artifacts_uri:
        yield _guarded("artefacts", lambda: _artifacts(settings))
    yield _guarded("signed updates", lambda: _updates(settings))
    if settings.prefect_url:
        yield _guarded("Prefect's database", lambda: _prefect(settings))


def _guarded(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except RobustIDPSError as error:
        where = f"{error.where}: " if error.where else ""
        return Finding(what, "fail", f"{where}{error.problem}", error.remedy or "")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("Python", "ok" if fits else "fail", version, "" if fits else "use Python 3.11 or 3.12")


def _parts() -> Iterator[Finding]:
    parts = {
        "captures and tables": (("nfstream", "pyarrow", "pandas"), "traffic"),
        "registry and reports": (("mlflow", "evidently", "matplotlib"), "mlops"),
        "orchestration": (("prefect",), "mlops"),
        "model export": (("onnx", "onnxruntime"), "torch"),
    }
    for what, (modules, extra) in parts.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            yield Finding(what, "fail", f"{', '.join(missing)} not installed", f"pip install 'robustidps[{extra}]'")
        else:
            yield Finding(what, "ok", ", ".join(modules))


def _families() -> Iterator[Finding]:
    found = discover()
    for name, info in sorted(found.items()):
        what, text = f"family {name}", f"from {info.distribution}"
        if info.problem is None:
            yield Finding(what, "ok", text)
        else:
            yield Finding(what, "warn", printable(f"{text}: {info.problem}", 400), info.remedy or "")
    if not any(info.problem is None for info in found.values()):
        yield Finding("families", "fail", "none can be trained", "pip install 'robustidps[torch]'")


def _plugins(settings: Settings) -> Iterator[Finding]:
    if ANY in settings.plugins:
        text = "any plugin that is installed is run"
        yield Finding("plugins", "warn", text, "in production, name each in `plugins` with its hash (docs/plugins.md)")
    elif settings.plugins:
        yield Finding("plugins", "ok", f"{len(settings.plugins)} allowed by hash")


def _loihi(settings: Settings) -> Finding:
    from robustidps.loihi.runner import installed

    try:
        found = installed(settings)
    except RobustIDPSError as error:
        return Finding("Loihi simulation", "warn", error.problem, error.remedy or "")
    return Finding("Loihi simulation", "ok", f"lava-nc {found['lava-nc']}, Python {found['python']}")


def _home(settings: Settings) -> Finding:
    folder = settings.folder()
    with writable(folder), tempfile.NamedTemporaryFile(dir=folder) as probe:
        probe.write(b"x")
    free = shutil.disk_usage(folder).free
    text = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < NEEDED_BYTES:
        return Finding("home folder", "warn", text, "the demo needs up to 3 GiB: free space or set ROBUSTIDPS_HOME")
    return Finding("home folder", "ok", text)


def _state(settings: Settings) -> Finding:
    from robustidps.registry.registry import ModelRegistry

    models = ModelRegistry(settings=settings).models()
    return Finding("state store", "ok", f"{len(models)} registered models")


def _ledger(settings: Settings) -> Finding:
    from robustidps.registry.registry import ModelRegistry

    report = ModelRegistry(settings=settings).verify()
    return Finding("decision ledger", "ok", str(report))


def _mlflow(settings: Settings) -> Finding:
    if importlib.util.find_spec("mlflow") is None:
        return Finding("MLflow", "fail", "not installed", "pip install 'robustidps[mlops]'")
    from robustidps.registry.registry import ModelRegistry

    tracking = ModelRegistry(settings=settings).tracking
    tracking.ping()
    return Finding("MLflow", "ok", tracking.where)


def _artifacts(settings: Settings) -> Finding:
    from robustidps.registry.objects import check_bucket

    uri = str(settings.artifacts_uri)
    if uri.startswith("s3:"):
        check_bucket(uri)
    else:
        folder = Path(uri.removeprefix("file://"))
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
    return Finding("artefacts", "ok", f"{uri} can be written")


def _updates(settings: Settings) -> Finding:
    """Whether updates could be looked for. The models that are here go on without: never more than a warning."""
    what, mirrors = "signed updates", len(settings.remote_registry_url)
    if not mirrors:
        return Finding(what, "ok", "not used: no remote_registry_url is set")
    if importlib.util.find_spec("tuf") is None:
        return Finding(what, "warn", "tuf not installed", "pip install 'robustidps[updates]'")
    from robustidps.updates.client import RemoteRegistry
    from robustidps.updates.fetching import HttpFetcher, Limits

    hasty = HttpFetcher(limits=Limits(tries=1, connect_s=5, silence_s=5, headers_s=5, window_s=5))
    remote = RemoteRegistry(settings.home, settings.remote_registry_url, fetcher=hasty)
    root = ""
    try:
        root = f"root {remote.fingerprint()} is pinned; "
        answers = remote.look()
    except RobustIDPSError as error:
        where = "" if root else f"{error.where}: "
        return Finding(what, "warn", printable(f"{root}{where}{error.problem}", 600), error.remedy or "")
    first = min(answers, key=lambda answer: answer.days)
    ends = f"expires in {first.days:.1f} days ({first.role})"
    text = f"{root}{len(answers)} of {mirrors} mirrors answer{'s' if len(answers) == 1 else ''}, all verifies, {ends}"
    if len(answers) < mirrors:
        quiet = [url for url in settings.remote_registry_url if url not in {answer.mirror for answer in answers}]
        return Finding(what, "warn", text, f"robustidps updates check says what is wrong with {', '.join(quiet)}")
    return Finding(what, "ok", text)


def _prefect(settings: Settings) -> Finding:
    from robustidps.system.prefect_database import check_database

    return Finding("Prefect's database", "ok", check_database(settings))
