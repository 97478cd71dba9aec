"""An alias moved in MLflow to the decision on it, by webhook and by polling.

    python -m benchmarks watch [--times 20] [--write] [--pictures]

A real MLflow server and the watcher, on this machine; a toy model whose rules ask for its accuracy, for the gain over
the champion and for a way back, on 900 held-out flows. `production` is moved to a version that passes and to one that
doesn't, in turns. Time runs from the call that moves the alias until the decision stands in the ledger: delivery,
reading MLflow, scoring candidate and champion, the rules, the signed commit. By polling the webhook is off; moves come
at times that have nothing to do with the polls. A rule on latency would add the second or so that timing takes.

`--pictures` draws the MLflow pages of `docs/stages.md` anew; takes Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks._pages import ROOT, circumstances, table, write_section
from robustidps.judging import promote, weigh
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, use_settings
from robustidps.system.supervisor import claimed_port
from robustidps.testing.judged import judged_bundles, register_judged
from robustidps.testing.mlflow_pages import open_browser, set_alias, show_model, show_version
from robustidps.testing.mlflow_server import MlflowServer, mlflow_server
from robustidps.watch.service import Watcher

MINUTES = 4
TARGET_S = {"webhook": 1.0, "polling": 15.0}


@contextmanager
def site(folder: Path) -> Iterator[tuple[ModelRegistry, MlflowServer]]:
    """A server, and a registry on it with `toy` 1.0.0 in Production, 1.1.0 good and 1.2.0 bad."""
    local = Settings(home=folder / "home")
    with mlflow_server(local) as server, use_settings(server.settings(local)) as settings:
        registry = ModelRegistry(settings=settings)
        register_judged(registry, judged_bundles(folder))
        promote(registry, "toy", "1.0.0")
        yield registry, server


@contextmanager
def watching(registry: ModelRegistry, *, webhook: bool, interval_s: float) -> Iterator[Watcher]:
    import uvicorn

    with claimed_port(0) as port:
        watcher = Watcher(registry, interval_s, f"http://127.0.0.1:{port}/mlflow" if webhook else None)
        server = uvicorn.Server(uvicorn.Config(watcher.app, port=port, log_level="warning", lifespan="off"))
        listening = threading.Thread(target=server.run, daemon=True)
        listening.start()
        watcher.start()
        try:
            while watcher.looked_at is None or (webhook and not watcher.webhook.startswith("MLflow tells")):
                time.sleep(0.1)
            time.sleep(1.5)  # the server's list of webhooks is a second old at most
            yield watcher
        finally:
            watcher.stop()
            server.should_exit = True
            listening.join(10)


def timed(registry: ModelRegistry, times: int, pause_s: float) -> list[float]:
    """Seconds from each move of the alias to the decision on it."""
    from mlflow import MlflowClient

    client, rng, taken = MlflowClient(registry.settings.tracking_uri), random.Random(0), []
    for number in range(times):
        good = {"1.0.0": "1.1.0", "1.1.0": "1.0.0"}[str(registry.assignment("toy").production)]
        version = good if number % 2 else "1.2.0"
        target = str(registry.version("toy", version).mlflow_version)
        before = len(registry.history("toy"))
        time.sleep(rng.uniform(0, pause_s))
        began = time.perf_counter()
        client.set_registered_model_alias("toy", "production", target)
        while len(registry.history("toy")) == before:
            time.sleep(0.005)
        taken.append(time.perf_counter() - began)
        assert (registry.history("toy")[-1].action == "promote") == bool(number % 2)
        while (
            not registry.assignment("toy").projected
            or _alias(client, registry) != registry.assignment("toy").production
        ):
            time.sleep(0.05)
    return taken


def judged_alone(registry: ModelRegistry) -> float:
    """Seconds that the part takes which `robustidps promote` has too: scoring both versions, asking the rules."""
    began = time.perf_counter()
    weigh(registry, "toy", "1.2.0", "Production")
    return time.perf_counter() - began


def _alias(client: object, registry: ModelRegistry) -> str:
    number = int(client.get_model_version_by_alias("toy", "production").version)  # type: ignore[attr-defined]
    return next(v.version for v in registry.versions("toy") if v.mlflow_version == number)


def pictures(registry: ModelRegistry, server: MlflowServer) -> list[Path]:
    """Moves `production` in the UI to a good version, then to a bad one; a picture of each answer."""
    from PIL import Image

    folder = ROOT / "docs" / "images"
    made = []
    with open_browser() as page:
        for version, name in (("1.1.0", "kept"), ("1.2.0", "put_back")):
            number = str(registry.version("toy", version).mlflow_version)
            before = len(registry.history("toy"))
            set_alias(page, server.url, "toy", number, "production")
            while len(registry.history("toy")) == before or not registry.assignment("toy").projected:
                time.sleep(0.1)
            time.sleep(3)
            if name == "kept":
                show_model(page, server.url, "toy")
                page.get_by_text("Registered at").scroll_into_view_if_needed()
                page.mouse.wheel(0, 2000)
            else:
                show_version(page, server.url, "toy", number)
            time.sleep(1)
            file = folder / f"mlflow_{name}.png"
            page.screenshot(path=file)
            with Image.open(file) as picture:
                picture.convert("RGB").quantize(64).save(file, optimize=True)
            made.append(file)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=20, help="moves by webhook; by polling half as many")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two polls")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    parser.add_argument("--pictures", action="store_true", help="draw docs/images/mlflow_*.png and nothing else")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, site(Path(folder)) as (registry, server):
        if arguments.pictures:
            with watching(registry, webhook=True, interval_s=2.0):
                for file in pictures(registry, server):
                    print(f"{file}: {file.stat().st_size:,} bytes")
            return 0
        for way, interval, times, pause in (
            ("webhook", 3600.0, arguments.times, 0.5),
            ("polling", arguments.interval, arguments.times // 2, arguments.interval),
        ):
            with watching(registry, webhook=way == "webhook", interval_s=interval):
                taken = timed(registry, times, pause)
            if way == "webhook":
                alone = [judged_alone(registry) for _ in range(times)]
                figures = [f"{value:.2f}" for value in (np.median(alone), max(alone))]
                rows.append(["scoring and rules alone", *figures, "", str(times)])
            figures = [f"{value:.2f}" for value in (np.median(taken), max(taken))]
            rows.append([f"by {way}", *figures, f"{TARGET_S[way]:g}", str(times)])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    said = f" Polled every {arguments.interval:g} s, which is the setting's default."
    said += f" {os.getloadavg()[1]:.0f} processes wanted those cores on average meanwhile."
    text = "\n\n".join(
        [
            table(["alias moved to decision taken", "median, s", "worst, s", "aim, s", "moves"], rows),
            circumstances("python -m benchmarks watch --write") + said,
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'watch', text)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
