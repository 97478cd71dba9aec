"""Ageing: detection over simulated months, a frozen model beside retraining and our loop, at an equal budget of labels.

    python -m benchmarks ageing [--seeds 3] [--write]
    python -m benchmarks ageing --quick             seconds, LightGBM alone: does it run
    python -m benchmarks ageing --scenario development      where the loop's parameters were chosen

A seed is a world: other hosts, other attack runs, another order of labels, other initial weights; the calendar of
changes stays. The second table repeats one world with LightGBM and three budgets. Definitions: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._pages import ROOT, circumstances, table, write_section
from benchmarks._trees import Trees
from robustidps.evaluation.ageing import POLICIES, Ageing, AgeingSettings, Curve, Walk
from robustidps.evaluation.ageing.picture import draw_ageing
from robustidps.evaluation.ageing.scenario import changes, scenario, scenario_traffic, study_settings
from robustidps.evaluation.ageing.study import timeline, walk, walk_curves
from robustidps.evaluation.bootstrap import MIN_BLOCKS, interval
from robustidps.evaluation.metrics import describe
from robustidps.evaluation.report import Interval
from robustidps.families import ModelFamily, get_family
from robustidps.traffic.simulator import SimulatorSettings

MINUTES = 12
SEEDS = 3
REPORTED = "quarter"
BUDGETS = (20, 60, 180)
"""Labels a day, small to large."""

MEDIUM = AgeingSettings()
ROWS = (
    ("AUT of macro-F1", "aut", "macro_f1"),
    ("AUT of the detection rate", "aut", "detection_rate"),
    ("AUT of the false-positive rate", "aut", "false_positive_rate"),
    ("detection of tools that are new", "pooled", "detection_new_tools"),
    ("alert recall", "pooled", "alert_recall"),
    ("alert false-positive rate", "pooled", "alert_false_positive_rate"),
    ("precision of alerts at 1 in 100", "pooled", "precision_at_prevalence_1e-2"),
    ("precision of alerts at 1 in 1,000", "pooled", "precision_at_prevalence_1e-3"),
)

COMPARED = {
    "macro_f1": "macro-F1",
    "detection_rate": "detection rate",
    "false_positive_rate": "false-positive rate",
}


@dataclass(frozen=True)
class Job:
    """One walk: everything that a worker needs to know."""

    world: SimulatorSettings
    folder: Path
    family: str
    settings: AgeingSettings
    policy: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ageing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="simulated worlds")
    parser.add_argument("--scenario", default=REPORTED, help="file in configs/ageing")
    parser.add_argument("--family", default="neural_ode", choices=("neural_ode", "lightgbm"))
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS, help="labels a day of the second table")
    parser.add_argument("--processes", type=int, default=2, help="walks at a time")
    parser.add_argument("--keep", type=Path, help="folder where simulated traffic is kept for the next time")
    parser.add_argument("--picture", type=Path, help="where to draw; default with --write: docs/images/ageing.png")
    parser.add_argument("--quick", action="store_true", help="nine small days, LightGBM, one world")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md and the picture")
    chosen = parser.parse_args(arguments)
    if chosen.write and (chosen.quick or chosen.scenario != REPORTED or chosen.family != "neural_ode"):
        parser.error(f"--write is for the page's own figures: scenario {REPORTED}, neural_ode, not --quick")
    settings, world, budgets, family = MEDIUM, scenario(chosen.scenario), chosen.budgets, chosen.family
    if chosen.quick:
        settings = AgeingSettings(start_days=4, start_labels=200, delay_days=1, slot_days=2, labels_per_day=30)
        world = scenario("short").model_copy(
            update={"days": 9, "packets_per_day": 1500, "new_tools": {"dalfox": 6}, "drift": ()}
        )
        budgets, family, chosen.seeds = (), "lightgbm", 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        worlds = [world.model_copy(update={"seed": world.seed + k}) for k in range(chosen.seeds)]
        for one in worlds:
            scenario_traffic(one, folder)
        jobs = [
            Job(one, folder, family, settings.model_copy(update={"seed": k}), policy)
            for k, one in enumerate(worlds)
            for policy in reversed(POLICIES)  # the long ones first
        ]
        more = [
            Job(worlds[0], folder, "lightgbm", settings.model_copy(update={"labels_per_day": budget}), policy)
            for budget in budgets
            for policy in reversed(POLICIES)
        ]
        done = list(zip([*jobs, *more], run([*jobs, *more], chosen.processes), strict=True))
        ours, others = done[: len(jobs)], done[len(jobs) :]
        studies = [gather([d for d in ours if d[0].world.seed == one.seed]) for one in worlds]
        text = report(studies)
        if budgets:
            by_budget = {b: [d for d in others if d[0].settings.labels_per_day == b] for b in budgets}
            text += "\n\n" + budget_table({b: gather(part) for b, part in by_budget.items()})
    command = "python -m benchmarks ageing" + (f" --seeds {chosen.seeds}" if chosen.seeds != SEEDS else "")
    if tuple(budgets) != BUDGETS:
        command += " ".join([" --budgets", *map(str, budgets)])
    command += " --write"
    text += "\n\n" + circumstances(command)
    print(text)
    picture = chosen.picture or (ROOT / "docs/images/ageing.png" if chosen.write else None)
    if picture:
        subject = f"{studies[0].family}, simulated months ({chosen.scenario}), {settings.labels_per_day} labels a day"
        subject += f", {len(studies)} worlds: mean, lowest to highest" if len(studies) > 1 else ""
        print(f"drawn: {draw_ageing(studies, picture, subject=subject)}")
    if chosen.write:
        print(f"written: {write_section('results.md', 'ageing', text)}")
    return 0


def run(jobs: list[Job], processes: int) -> list[tuple[Walk, dict[str, Curve]]]:
    """The walks of all jobs, in order; says on standard error how far it is."""
    done = []
    with ExitStack() as stack:
        if processes > 1:
            pool = stack.enter_context(ProcessPoolExecutor(processes, mp_context=get_context("spawn")))
            results = pool.map(perform, jobs)
        else:
            results = map(perform, jobs)
        for job, result in zip(jobs, results, strict=True):
            done.append(result)
            what = f"{job.family}, seed {job.world.seed}, {job.settings.labels_per_day} labels a day, {job.policy}"
            print(f"{len(done)} of {len(jobs)} walks: {what}", file=sys.stderr, flush=True)
    return done


def perform(job: Job) -> tuple[Walk, dict[str, Curve]]:
    family = family_of(job.family)
    laid_out = timeline(scenario_traffic(job.world, job.folder), job.settings, changes(job.world))
    walked = walk(laid_out, job.policy, family, study_settings(family), job.settings)
    return walked, walk_curves(laid_out, walked, job.settings)


def family_of(name: str) -> ModelFamily:
    return Trees() if name == "lightgbm" else get_family(name)


def gather(done: list[tuple[Job, tuple[Walk, dict[str, Curve]]]]) -> Ageing:
    """One world's walks as a study, policies in their usual order."""
    job = done[0][0]
    laid_out = timeline(scenario_traffic(job.world, job.folder), job.settings, changes(job.world))
    walks = {job.policy: made for job, made in done}
    names = [name for name in POLICIES if name in walks]
    return Ageing(laid_out, job.settings, job.family, {n: walks[n][0] for n in names}, {n: walks[n][1] for n in names})


def report(studies: list[Ageing]) -> str:
    """The main table, the paired differences and what they say, in Markdown."""
    first = studies[0]
    scored = sum(int((s.timeline.slot >= 0).sum()) for s in studies)
    s = first.settings
    header = [f"{first.family}, {len(studies)} worlds" if len(studies) > 1 else first.family]
    header += [w.text for w in first.walks.values()]
    rows = [[title, *(spread(figures(studies, p, kind, name)) for p in first.walks)] for title, kind, name in ROWS]
    for title, digits, count in (
        ("labels bought", 0, lambda w: w.labels),
        ("trainings", 1, lambda w: w.trainings),
        ("seconds of training", 0, lambda w: w.seconds),
        ("seconds of watching and judging", 0, lambda w: w.judging_s),
    ):
        rows.append([title, *(average([count(study.walks[p]) for study in studies], digits) for p in first.walks)])
    days = first.timeline.n_slots * s.slot_days
    lines = [
        table(header, rows),
        f"{scored:,} flows of {days} days, {first.timeline.n_slots} slots of {s.slot_days} days each; "
        f"{s.start_labels:,} labels of the first {s.start_days} days to begin with, then {s.labels_per_day} a day that "
        f"arrive after {s.delay_days} days. Mean (lowest to highest) over worlds; counts are means. The frozen model "
        "has its whole budget in the first weeks, and so begins ahead." + challengers(studies),
        *verdicts(studies),
    ]
    return "\n\n".join(lines)


def challengers(studies: list[Ageing]) -> str:
    """What became of the loop's challengers."""
    loops = [s.walks["loop"] for s in studies if "loop" in s.walks]
    if not loops:
        return ""
    counts = {kind: sum(w.count(kind) for w in loops) for kind in ("promoted", "refused", "held")}
    waited = sum(w.waited for w in loops)
    return (
        f" The loop's challengers, all worlds: {counts['promoted']} promoted, {counts['refused']} refused, "
        f"{counts['held']} held for want of evidence; on {waited} days one was called for and there were too few "
        "labels to judge it on."
    )


def verdicts(studies: list[Ageing]) -> list[str]:
    """Our loop against each other policy: differences of AUT, paired, and in words what they say."""
    if "loop" not in studies[0].walks:
        return []
    rows, said = [], []
    loop = studies[0].walks["loop"]
    for other, walked in studies[0].walks.items():
        if other == "loop":
            continue
        gaps = {metric: mean_gap(studies, "loop", other, metric) for metric in COMPARED}
        rows.append([walked.text, *(f"{gap:+.3f}" for gap in gaps.values())])
        paid = [float(np.mean([s.walks[p].trainings for s in studies])) for p in ("loop", other)]
        said.append(sentence(walked.text, gaps, paid))
    return [
        table([f"{loop.text} minus", *COMPARED.values()], rows),
        "Differences of AUT with 95 % intervals: campaigns are resampled within each slot, the same for both policies, "
        "and averaged over worlds. " + " ".join(said),
    ]


def sentence(text: str, gaps: dict[str, Interval], paid: list[float]) -> str:
    """What differences say of our loop, metric by metric, and what each side paid."""
    words = [f"{COMPARED[metric]} {word(gap, metric)}" for metric, gap in gaps.items()]
    return f"Our loop against *{text}* ({paid[0]:.1f} trainings against {paid[1]:.1f}): {', '.join(words)}."


def word(gap: Interval, metric: str) -> str:
    """Whether a difference is for the better, for the worse, or none that the interval can tell from 0."""
    if gap.low is None or gap.high is None:
        return "unknown"
    if gap.low <= 0 <= gap.high:
        return "no clear difference"
    meaning = describe(metric)
    lower_is_better = meaning is not None and meaning.better == "lower"
    return "better" if (gap.high < 0) == lower_is_better else "**worse**"


def mean_gap(studies: list[Ageing], one: str, other: str, metric: str) -> Interval:
    """The difference of AUT, averaged over worlds draw by draw: worlds are taken as given, campaigns are not."""
    gaps = [s.gap(one, other, metric) for s in studies]
    if any(g.value is None for g in gaps):
        return Interval(value=None)
    draws = np.mean([s.curves[one][metric].draws - s.curves[other][metric].draws for s in studies], axis=0)
    known = all(g.low is not None for g in gaps)
    return interval(float(np.mean([g.value for g in gaps])), draws, MIN_BLOCKS if known else 0)


def budget_table(studies: dict[int, Ageing]) -> str:
    """LightGBM over budgets, one world."""
    first = next(iter(studies.values()))
    header = ["LightGBM, one world: AUT of macro-F1 (trainings)", *(w.text for w in first.walks.values())]
    rows = []
    for budget, study in studies.items():
        cells = [f"{study.curves[p]['macro_f1'].area:.3f} ({walked.trainings})" for p, walked in study.walks.items()]
        rows.append([f"{budget} labels a day", *cells])
    return table(header, rows)


def figures(studies: list[Ageing], policy: str, kind: str, name: str) -> list[float | None]:
    if kind == "aut":
        return [s.curves[policy][name].area.value for s in studies]
    return [s.pooled(policy)[name] for s in studies]


def spread(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return "n/a"
    middle = f"{np.mean(known):.3f}"
    return f"{middle} ({min(known):.3f} to {max(known):.3f})" if len(known) > 1 else middle


def average(values: list[Any], digits: int) -> str:
    return f"{np.mean(values):,.{digits}f}"


if __name__ == "__main__":
    from benchmarks import ageing  # by its own name, so that the workers' processes find what is sent to them

    raise SystemExit(ageing.main())
