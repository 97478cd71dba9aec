"""`make demo`: the main job, end to end, on simulated traffic, in a home of its own.

Two simulated weeks -> a model trained, judged on days it has not seen, promoted -> a starved candidate refused, with
the reason -> a fresh capture scored by the model in production. Everything runs on the real parts: packets through
the flow extractor, MLflow, the signed ledger, Prefect.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from prefect import flow

from robustidps import console, pages
from robustidps.comparing import resolve
from robustidps.evaluation.report import Evaluation
from robustidps.flows.train import train
from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.scoring import score
from robustidps.settings import get_settings
from robustidps.tasks.references import load
from robustidps.tasks.traffic import ingest_file

__all__ = ["demo"]

MODEL = "neural_ode"
STARVED_ROWS = 250


@flow(name="demo", persist_result=True, result_serializer="json")
def demo(quiet: bool = False, dataset: str = "simulated", seed: int = 0) -> dict[str, Any]:
    """Runs the main job and prints a line for each step.

    Args:
        quiet: print nothing (the summary comes back all the same).
        dataset: which simulated data set; a smaller one for tests.
        seed: of the training and of the fresh capture.
    """
    began = time.monotonic()
    good = train(family=MODEL, dataset=dataset, overrides={"seed": seed}, promote_to="Production", description="demo")
    _tell(quiet, good)
    if not quiet:
        console.line("a starved candidate", f"trained on {STARVED_ROWS} rows, on purpose")
    starved = train(
        family=MODEL,
        dataset=dataset,
        overrides={"seed": seed},
        limit_rows=STARVED_ROWS,
        promote_to="Production",
        description=f"demo: starved on purpose, {STARVED_ROWS} training rows",
    )
    if not quiet:
        _tell_promotion(starved)
    capture = _fresh_capture(seed)
    flows = load(ingest_file(capture))
    scores = score(resolve(ModelRegistry(settings=get_settings()), f"{MODEL}@production"), flows)
    current()("scoring a fresh capture", len(flows), len(flows), unit="flows")
    summary = {
        "production": good["version"] if good["promotion"][-1]["moved"] else None,
        "refused": None if starved["promotion"][-1]["moved"] else starved["version"],
        "reasons": [r["text"] for r in starved["promotion"][-1]["verdict"]["results"] if r["passed"] is not True],
        "evaluation": good["evaluation"],
        "drift": {k: good["drift"][k] for k in ("drifted_share",)},
        "scored": scores.counts(),
        "page": good["page"],
        "files": good["files"],
        "capture": str(capture),
        "seconds": round(time.monotonic() - began, 1),
    }
    if not quiet:
        console.line("scoring a fresh capture", pages.verdict_line(scores))
        _farewell(summary)
    return summary


def _fresh_capture(seed: int) -> Path:
    from robustidps.traffic.simulator import fresh_capture

    path = get_settings().folder("captures") / f"fresh-{seed}.pcap"
    fresh_capture(path, seed=seed + 1_000)
    return path


def _tell(quiet: bool, result: dict[str, Any]) -> None:
    if quiet:
        return
    evaluation = Evaluation.model_validate(result["evaluation"])
    days = ""
    if evaluation.time_from is not None and evaluation.time_to is not None:
        days = f"{math.ceil((evaluation.time_to - evaluation.time_from) / 86_400)} days it has not seen: "
    console.line("judged on", days + pages.headline(evaluation))
    page = next((f for f in result["files"] if Path(f).name == "drift.html"), None)
    report = f" (report: {Path(page).absolute().as_uri()})" if page else ""
    console.line("drift against training", result["drift"]["headline"] + report)
    _tell_promotion(result)


def _tell_promotion(result: dict[str, Any]) -> None:
    for outcome in result["promotion"]:
        pages.show_verdict(result["name"], result["version"], outcome["stage"], outcome["verdict"], outcome["moved"])


def _farewell(summary: dict[str, Any]) -> None:
    settings = get_settings()
    here = f"robustidps --home {settings.home}"
    console.out.print()
    console.line(
        "what you have now", f"{MODEL} {summary['production']} in production, {summary['refused']} refused and why"
    )
    console.line("how good it is", Path(summary["page"]).absolute().as_uri())
    console.line("why, and who", f"{here} history {MODEL} --verify")
    console.line("the pages", f"{here} ui")
    console.line("your own capture", f"{here} score my.pcap")
    console.line("took", f"{summary['seconds']:.0f} s")
