"""`make demo`: the main job, end to end, on simulated traffic, in a home of its own.

Two simulated weeks -> a model trained, judged on days it has not seen, promoted -> a starved candidate refused, with
the reason -> other families trained side by side, and two models as one -> the spiking one simulated on Loihi, the
quantum one on a noisy device -> a person asked before a promotion -> a fresh capture scored by the model in production,
held against its labels, and looked at as a window of traffic -> all of it backed up, restored elsewhere and verified
-> a model published, signed, and taken by a second installation, which measures it itself.
Everything runs on the real parts: packets through the flow extractor, MLflow, the signed ledger, Prefect. What a
machine can't do (Lava wants a Python 3.10, circuits want an extra) is said in a line.
"""

from __future__ import annotations

import math
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow

from robustidps import console, pages
from robustidps.backup import restore, save
from robustidps.comparing import resolve
from robustidps.errors import UnavailableError
from robustidps.evaluation.base_rates import base_rates
from robustidps.evaluation.report import Evaluation
from robustidps.families import discover
from robustidps.flows.evaluate_on_hardware import evaluate_on_hardware
from robustidps.flows.export_loihi import export_loihi
from robustidps.flows.monitor import monitor
from robustidps.flows.steps import traffic_parts, trainings
from robustidps.flows.train import train
from robustidps.flows.train_all import train_all
from robustidps.flows.unify import unify
from robustidps.judging import promote
from robustidps.loihi.runner import installed
from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.scoring import score
from robustidps.settings import get_settings, use_settings
from robustidps.tasks.references import load
from robustidps.tasks.traffic import ingest_file
from robustidps.tasks.training import discard_bundles
from robustidps.testing.web import served
from robustidps.updates.installing import open_remote, run
from robustidps.updates.offers import check
from robustidps.updates.publishing import Publisher

if TYPE_CHECKING:
    from robustidps.bundle import Bundle

__all__ = ["demo"]

MODEL = "neural_ode"
OTHER = "boosted_trees"
SIDE_BY_SIDE: dict[str, dict[str, Any]] = {
    OTHER: {},
    "spiking": {"hidden": [64, 64], "steps": 8, "epochs": 8},
    "quantum": {"epochs": 2},
}
"""Families beside the main one, where they can be trained, and what makes them quick rather than good."""
LOIHI_ROWS = 200
DEVICE_ROWS = 60
STARVED_ROWS = 250
RARE = "1e-4"
"""Share of attacks among flows that the outlook is for."""


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
    others = _side_by_side(dataset, seed, quiet)
    other = others[OTHER]
    members = [f"{one['name']}@{one['version']}" for one in (good, other)]
    both = unify(members=members, dataset=dataset, description="demo")
    if not quiet:
        weights = [member["weight"] for member in both["settings"]["members"]]
        text = f"{MODEL} and {OTHER}, weighted {weights[0]:.2f} and {weights[1]:.2f}: {_figures(both)}"
        console.line("two as one graph", text)
    elsewhere = _elsewhere(others, quiet)
    asked = _ask_a_person(both, quiet)
    capture, labels = _fresh_capture(seed)
    flows = load(ingest_file(capture))
    bundle = resolve(ModelRegistry(settings=get_settings()), f"{MODEL}@production")
    scores = score(bundle, flows)
    current()("scoring a fresh capture", len(flows), len(flows), unit="flows")
    labelled = _held_against_labels(bundle, capture, labels)
    if not quiet:
        console.line("scoring a fresh capture", pages.verdict_line(scores))
        console.line("held against its labels", labelled)
    window = _looked_at(capture, quiet)
    archive = _backed_up(quiet)
    updated = _taken_elsewhere(other, dataset, seed, quiet)
    summary = {
        "production": good["version"] if good["promotion"][-1]["moved"] else None,
        "refused": None if starved["promotion"][-1]["moved"] else starved["version"],
        "reasons": [r["text"] for r in starved["promotion"][-1]["verdict"]["results"] if r["passed"] is not True],
        "evaluation": good["evaluation"],
        "others": {one["name"]: one["evaluation"]["headline"]["macro_f1"]["value"] for one in (*others.values(), both)},
        "elsewhere": elsewhere,
        "asked": asked,
        "window": window,
        "backup": archive,
        "updated": updated,
        "drift": {k: good["drift"][k] for k in ("drifted_share",)},
        "scored": scores.counts(),
        "labelled": labelled,
        "page": good["page"],
        "files": good["files"],
        "capture": str(capture),
        "seconds": round(time.monotonic() - began, 1),
    }
    if not quiet:
        _farewell(summary)
    return summary


def _side_by_side(dataset: str, seed: int, quiet: bool) -> dict[str, dict[str, Any]]:
    """What `train_all` gives for each family that can be trained here.

    Raises:
        RobustIDPSError: one failed.
    """
    found = discover()
    jobs = {
        name: {"seed": seed, **told}
        for name, told in SIDE_BY_SIDE.items()
        if name in found and found[name].problem is None
    }
    result: Any = train_all(families=list(jobs), dataset=dataset, overrides=jobs, description="demo: quick, not good")
    for name in SIDE_BY_SIDE:
        if quiet:
            break
        if name in jobs:
            brief = " (trained briefly)" if SIDE_BY_SIDE[name] else ""
            console.line("side by side", f"{name}{brief}: {_figures(result['families'][name])}")
        elif name in found:
            console.line("side by side", f"{name}: {found[name].problem} ({found[name].remedy})", "yellow")
    outcomes: dict[str, dict[str, Any]] = result["families"]
    return outcomes


def _elsewhere(others: dict[str, dict[str, Any]], quiet: bool) -> dict[str, Any]:
    """Models on other hardware, as far as this machine can show it: figures by name, or why there are none."""
    shown: dict[str, Any] = {}
    if spiking := others.get("spiking"):
        try:
            installed(get_settings())
            result: dict[str, Any] = export_loihi(spiking["name"], spiking["version"], rows=LOIHI_ROWS)
            report = result["report"]
            shown["loihi"] = {
                "classes_differing": report["floating"]["classes_differing"],
                "emulator_spikes_differing": report["emulator"]["spikes_differing"],
                "agreement": report["cost"]["agreement"]["value"],
                "energy_uj": report["running"]["energy_uj"],
            }
            text = (
                f"{LOIHI_ROWS} flows simulated by Lava: {report['floating']['classes_differing']} classes differ from "
                f"torch's, {report['cost']['agreement']['value']:.3f} agree in fixed point, "
                f"{report['running']['energy_uj']:.1f} uJ a flow (an estimate)"
            )
        except UnavailableError as error:
            shown["loihi"], text = {"unavailable": str(error)}, str(error)
        if not quiet:
            console.line("on Loihi", text)
    if quantum := others.get("quantum"):
        result = evaluate_on_hardware(quantum["name"], quantum["version"], backend="fake_manila", rows=DEVICE_ROWS)
        shown["fake_manila"] = {"agreement": result["agreement"]["value"]}
        if not quiet:
            same = result["agreement"]["value"]
            console.line("on fake_manila", f"{DEVICE_ROWS} flows with that device's noise: {same:.2f} keep their class")
    return shown


def _ask_a_person(made: dict[str, Any], quiet: bool) -> str | None:
    """Asks for a promotion by rules that want a person; the approval waited for, or None where rules refused."""
    outcomes = promote(ModelRegistry(settings=get_settings()), made["name"], made["version"], rules="approved")
    request = outcomes[-1].approval
    if not quiet:
        text = "; ".join(outcomes[-1].verdict.reasons)
        console.line("a person before Production", f"{made['name']} {made['version']}: {text}", "yellow")
    return request.id if request else None


def _looked_at(capture: Path, quiet: bool) -> dict[str, Any]:
    """The capture as a window of traffic in production: what moved against training, and whether it is an alarm."""
    window: dict[str, Any] = monitor(models=[MODEL], traffic=str(capture))["models"][MODEL]["windows"][0]
    if not quiet:
        text = "; ".join(window["reasons"]) or "nothing moved far"
        page = Path(window["page"]).absolute().as_uri()
        console.line("the same beside training", f"{window['status']}: {text} (report: {page})")
    return {key: window[key] for key in ("window", "status", "rows", "reasons", "alarm")}


def _backed_up(quiet: bool) -> dict[str, Any]:
    """Everything in one file, and that restored into another home and verified."""
    settings = get_settings()
    archive, elsewhere = settings.folder("backup") / "demo.tar.gz", settings.home / "restored"
    for left in (archive, elsewhere):  # of the demo before, gone on with by --keep
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    saved = save(ModelRegistry(settings=settings), archive, progress=current())
    restore(archive, settings.model_copy(update={"home": elsewhere}), progress=current())
    report = ModelRegistry(registry_path=elsewhere).verify()
    size = archive.stat().st_size / 2**20
    if not quiet:
        text = f"{len(saved.manifest.files)} files, {size:.1f} MiB; restored in {elsewhere}: {report}"
        console.line("backed up", text)
    return {"files": len(saved.manifest.files), "records": report.records}


def _taken_elsewhere(better: dict[str, Any], dataset: str, seed: int, quiet: bool) -> dict[str, Any]:
    """A second installation, which still runs a model trained on too little, takes a better one from a repository."""
    settings = get_settings()
    here = ModelRegistry(settings=settings)
    version = f"{better['version']}-starved"  # before it in order
    cut = traffic_parts(dataset, None, None, None, STARVED_ROWS, None)
    text = f"demo: what a branch office runs, {STARVED_ROWS} training rows"
    make = trainings(OTHER, {"seed": seed}, 1, cut, name=OTHER, dataset=dataset, description=text)
    weak = make(version)[0]
    held_out = {"path": cut["test"]["path"], "digest": cut["test"]["digest"], "dataset": dataset, "rules": "simulated"}
    folder, home = settings.home / "published", settings.home / "branch"
    for left in (folder, home):  # of the demo before
        shutil.rmtree(left, ignore_errors=True)
    passphrase = secrets.token_bytes(16)
    publisher = Publisher(folder, passphrase=lambda name, new: passphrase)
    publisher.init()
    with here.bundle(OTHER, better["version"]) as bundle:
        publisher.add(bundle.path, progress=current())
    with served(folder / "public") as url:
        branch = settings.model_copy(update={"home": home, "remote_registry_url": (url,), "enable_auto_update": True})
        with use_settings(branch):
            there = ModelRegistry(settings=branch)
            there.register_model(OTHER, version, Path(weak["path"]), held_out=held_out)
            said = {"outcome": "promote", "reasons": ["the branch office has to begin with something"]}
            there.transition(OTHER, version, "Production", verdict=said)
            remote = open_remote(branch)
            root = publisher.status().root
            remote.trust(root.read_bytes() if root else b"")
            found = check(there, remote)
            outcome = run(there, remote, progress=current())[0]
    discard_bundles(OTHER, version)
    if not quiet:
        for update in found:
            console.line("an update, signed", str(update))
        color = "green" if outcome.outcome == "activated" else "yellow"
        text = f"accuracy {outcome.measured} as measured there: {outcome.outcome}"
        console.line("at a branch office", "; ".join([text, *outcome.reasons]), color)
    return outcome.as_dict()


def _fresh_capture(seed: int) -> tuple[Path, Path]:
    """A capture, and a label file of it."""
    from robustidps.traffic.simulator import fresh_capture

    path = get_settings().folder("captures") / f"fresh-{seed}.pcap"
    labels = path.with_suffix(".labels.csv")
    fresh_capture(path, seed=seed + 1_000, labels=labels)
    return path, labels


def _held_against_labels(bundle: Bundle, capture: Path, labels: Path) -> str:
    """What became of the capture's attacks and benign flows, in a line."""
    from robustidps.traffic.labelling import labelled_capture

    traffic, _ = labelled_capture(capture, labels)
    known = traffic.select(traffic.labelled)
    alerts = score(bundle, known).alerts > 0
    attack = known.labels > 0
    return (
        f"{len(known)} of {len(traffic)} flows have a label; {int((alerts & attack).sum())} of {int(attack.sum())} "
        f"attack flows raise an alert, {int((alerts & ~attack).sum())} of {int((~attack).sum())} benign ones"
    )


def _tell(quiet: bool, result: dict[str, Any]) -> None:
    if quiet:
        return
    evaluation = Evaluation.model_validate(result["evaluation"])
    days = ""
    if evaluation.time_from is not None and evaluation.time_to is not None:
        days = f"{math.ceil((evaluation.time_to - evaluation.time_from) / 86_400)} days it has not seen: "
    console.line("judged on", days + pages.headline(evaluation))
    _tell_outlook(evaluation)
    page = next((f for f in result["files"] if Path(f).name == "drift.html"), None)
    report = f" (report: {Path(page).absolute().as_uri()})" if page else ""
    console.line("drift against training", result["drift"]["headline"] + report)
    _tell_promotion(result)


def _tell_outlook(evaluation: Evaluation) -> None:
    """What its alerts would come to in a network, and what is found of attacks that try not to be seen."""
    rates = base_rates(evaluation, get_settings().alerts_per_analyst)
    row = next(r for r in rates.for_flows(1_000_000) if r.prevalence == RARE)
    console.line(
        "in a network",
        f"of 1,000,000 flows a day, 1 in 10,000 an attack: {rates.count(row.true_alerts)} attacks found a day, "
        f"{rates.count(row.false_alerts)} false alerts",
    )
    if evaluation.evasion:
        unchanged = evaluation.evasion.perturbations["unchanged"].detection
        console.line(
            "attacks that evade",
            f"{unchanged.value:.2f} found as they are, {evaluation.evasion.detection:.2f} by what hides each tool best",
        )


def _figures(result: dict[str, Any]) -> str:
    return pages.headline(Evaluation.model_validate(result["evaluation"]))


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
    console.line("the pages, all at work", f"{here} up")
    console.line("your own capture", f"{here} score my.pcap")
    console.line("took", f"{summary['seconds']:.0f} s")
