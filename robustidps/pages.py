"""What commands show: rows gathered from the library, as a table for people and as plain data for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps import console
from robustidps.errors import DatasetError
from robustidps.settings import config_file, exists, known_configs, load_yaml

if TYPE_CHECKING:
    from robustidps.comparing import Comparison
    from robustidps.evaluation.ageing.command import Aged
    from robustidps.evaluation.base_rates import BaseRates
    from robustidps.evaluation.report import Evaluation
    from robustidps.judging import Outcome
    from robustidps.registry.registry import ModelRegistry
    from robustidps.scoring import Scores
    from robustidps.traffic.fetch import Fetched
    from robustidps.traffic.labelling import LabelOptions

__all__ = ["Page"]

MOST_FILES = 12
"""Files of a data set that are named one by one."""

HEADLINE = (
    "accuracy",
    "macro_f1",
    "false_positive_rate",
    "detection_rate",
    "alert_recall",
    "alert_false_positive_rate",
)

SIDE_BY_SIDE = ("accuracy", "macro_f1", "detection_rate", "false_positive_rate")
"""Figures that families are set side by side by."""


@dataclass(frozen=True)
class Page:
    """Rows with the same keys; `show` draws them, `rows` is what `--json` prints."""

    title: str
    rows: list[dict[str, Any]]
    right: tuple[str, ...] = ()
    empty: str = "nothing yet"

    def show(self) -> None:
        if not self.rows:
            console.remark(self.empty)
            return
        columns = list(self.rows[0])
        cells = ([_cell(row[c]) for c in columns] for row in self.rows)
        console.table(self.title, columns, cells, right=self.right)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, dict):
        value = [f"{k}: {v}" for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value))
    return str(value)


def families() -> Page:
    """What can be trained, and what is missing for the rest."""
    from robustidps.families import discover

    rows = [
        {
            "family": name,
            "framework": info.family.framework if info.family else "-",
            "from": info.distribution,
            "available": "yes" if info.problem is None else "; ".join(filter(None, (info.problem, info.remedy))),
            "what": info.family.description if info.family else "",
        }
        for name, info in sorted(discover().items())
    ]
    return Page("families", rows)


def models(registry: ModelRegistry) -> Page:
    rows = []
    held = registry.holds()
    for summary in registry.models():
        where = summary.assignment
        rows.append(
            {
                "model": summary.name,
                "production": where.production,
                "staging": where.staging,
                "previous": where.previous,
                "versions": summary.versions,
                "held": held.get(summary.name),
            }
        )
    return Page("registered models", rows, right=("versions",), empty="no model yet: robustidps train, or make demo")


def versions(registry: ModelRegistry, name: str) -> Page:
    rows = [
        {
            "version": v.version,
            "stage": v.stage,
            "status": v.status,
            "created": v.created_at,
            "author": v.author,
            "digest": (v.digest or "")[:8],
            "dataset": (v.held_out or {}).get("dataset"),
        }
        for v in registry.versions(name)
    ]
    return Page(name, rows)


@dataclass(frozen=True)
class HistoryPage(Page):
    """Decisions, a line each; further reasons stand below the first."""

    def show(self) -> None:
        if not self.rows:
            console.remark(self.empty)
        one = len({row["model"] for row in self.rows}) == 1
        for row in self.rows:
            reasons = row["why"] or [""]
            what = row["version"] if one else f"{row['model']} {row['version']}"
            head = f"{row['decision']:<9} {row['to'] or '-':<11} {row['by']:<14} "
            colour = COLOURS.get(row["verdict"], "")
            console.line(f"{row['time']:%Y-%m-%d %H:%M}  {what}", head + reasons[0], colour)
            for reason in reasons[1:]:
                console.line("", f"{'':<{len(head)}}{reason}", colour)


COLOURS = {"promote": "green", "reject": "red", "hold": "yellow", "override": "yellow", "lost": "red"}


def history(registry: ModelRegistry, name: str | None) -> Page:
    rows = [
        {
            "time": d.time,
            "model": d.model,
            "version": d.version,
            "decision": d.action,
            "to": None if d.to_stage == "None" else d.to_stage,
            "by": f"{d.actor} ({d.actor_source})",
            "verdict": d.verdict,
            "why": list(d.reasons),
        }
        for d in registry.history(name)
    ]
    return HistoryPage(name or "all models", rows, empty="no decision yet")


def datasets() -> Page:
    from robustidps.traffic.prepare import DatasetConfig

    rows = []
    for name in known_configs("training"):
        config = load_yaml(config_file("training", name), DatasetConfig)
        rows.append(
            {
                "name": name,
                "source": config.source,
                "split": config.split,
                "rules": config.rules,
                "what": config.description,
            }
        )
    return Page("data sets", rows)


def fetchable() -> Page:
    """The public data sets, and how each is had."""
    from robustidps.traffic.fetch import ways

    return Page("public data sets", ways())


def next_commands(fetched: Fetched) -> list[str]:
    """What to do with a data set that was fetched: train on it, where a configuration says how it is split."""
    import shlex

    from robustidps.traffic.prepare import dataset_config

    folder = shlex.quote(str(fetched.folder))
    names = [name for name in known_configs("training") if dataset_config(name).loader == fetched.name]
    train = [f"robustidps train --dataset {name} --data-dir {folder}" for name in names]
    return train or [f"robustidps data describe {folder}"]


def show_fetched(fetched: Fetched, following: list[str]) -> None:
    for file in fetched.files:
        console.line(file.file.name, f"{file.bytes:,} bytes, {'fetched' if file.fresh else 'there already'}", "green")
        console.line("", str(file.file))
        console.line("sha256", file.sha256)
        console.line("", file.checked)
    if fetched.by_hand:
        console.line("by hand", fetched.by_hand)
    for command in following:
        console.line("next", command)


def describe(path: Path) -> Page:
    """What a file, an archive or a file in it, or a folder is.

    Raises:
        DatasetError, CaptureError: it is none of the kinds we know, or damaged.
    """
    from robustidps.scoring import CAPTURE_SUFFIXES
    from robustidps.traffic.capture import inspect
    from robustidps.traffic.loaders.archive import located
    from robustidps.traffic.loaders.table import Table
    from robustidps.traffic.trafficset import TrafficSet

    if not exists(path) and located(path)[1] is None:
        raise DatasetError("no such file or folder", where=path)
    if path.suffix in CAPTURE_SUFFIXES:
        facts: Mapping[str, Any] = inspect(path).to_dict()
    elif Table().identify(path):
        traffic = TrafficSet.read(path)
        facts = {"kind": "traffic set", "schema": traffic.schema.name, "rows": len(traffic), "digest": traffic.digest}
        facts = facts | {f"rows of {k}": v for k, v in traffic.class_counts().items() if v}
    else:
        facts = _release(path)
    return _facts(path.name, facts)


def _release(path: Path) -> dict[str, Any]:
    """What is known about a public data set's release at `path`: of the files there, then of the set."""
    from robustidps.progress import current
    from robustidps.traffic.loaders import identify, known

    found = identify(path, progress=current())
    set_ = known()[found.loader].describe()
    files = {name: f"{found.parts[name].name}, {rows:,} row{'s' * (rows != 1)}" for name, rows in found.rows.items()}
    shown = dict(list(files.items())[:MOST_FILES])
    if len(files) > len(shown):
        shown["..."] = f"{len(files) - len(shown)} more files"
    dropped_rows = ""
    if found.unusable:
        dropped_rows = f"those without a finite number in a feature; above {100 * found.unusable:g} % a file is refused"
    return {
        "data set": set_["title"],
        "loader": found.loader,
        "release": found.release,
        "rows": sum(found.rows.values()),
        **{f"part {name}": text for name, text in shown.items()},
        "classes": list(found.classes),
        **{f"drops {column}": reason for column, reason in found.dropped.items()},
        "drops rows": dropped_rows,
        "left aside": found.unused,
        "notes": list(found.notes),
        **{f"defect {number}": text for number, text in enumerate(set_["defects"], start=1)},
        **{key: set_[key] for key in ("source", "licence", "citation", "card")},
    }


def simulate(out: Path, overrides: dict[str, Any], flows: bool) -> Page:
    from pydantic import ValidationError

    from robustidps.progress import current
    from robustidps.settings import config_error
    from robustidps.traffic.simulator import SimulatorSettings, simulate, simulated_traffic

    try:
        settings = SimulatorSettings.model_validate(overrides)
    except ValidationError as error:
        raise config_error(error, "--set", SimulatorSettings) from None
    if flows:
        traffic = simulated_traffic(settings, out, progress=current())
        return _facts(str(out), {"flows": len(traffic), **traffic.class_counts()})
    simulation = simulate(settings, out, progress=current())
    return _facts(str(out), simulation.facts())


def evade(capture: Path, out: Path, labels: Path | None, label: str | None, options: LabelOptions, seed: int) -> Page:
    """Alters a capture's attacks to evade, writes their flows to `out`, and says what there is and what it costs."""
    from robustidps.progress import current
    from robustidps.traffic.evasion import evade as alter
    from robustidps.traffic.labelling import capture_truth, labelled_capture

    # First as `ingest` would: labels of another capture or with another clock end here, with the reason.
    _, report = labelled_capture(capture, labels, label=label, options=options, progress=current())
    truth = capture_truth(capture, labels, label=label, options=options)
    evaded = alter([(capture, truth)], tolerance_s=options.tolerance_s, seed=seed, progress=current())
    evaded.write(out)
    facts: dict[str, Any] = {"file": str(out), "digest": evaded.digest, "labels": report.lines()}
    facts |= {"conversations": evaded.provenance["conversations"], "flows": len(evaded)}
    facts |= {f"flows of {name}": count for name, count in evaded.class_counts().items() if count}
    costs = evaded.provenance["cost"].items()
    facts |= {f"cost of {name}, times": cost["all"] for name, cost in costs}
    return _facts(str(out), facts)


def _facts(title: str, facts: Mapping[str, Any]) -> Page:
    known = {key: value for key, value in facts.items() if value not in (None, "", [], {})}
    return Page(title, [{"": key, "value": value} for key, value in known.items()])


def verdict_line(scores: Scores) -> str:
    """`1,204 flows: 1,071 Benign, 96 Recon-PortScan, 37 uncertain`."""
    parts = [f"{n:,} {name}" for name, n in scores.counts().items()]
    return f"{len(scores.traffic):,} flows: {', '.join(parts) or 'none'}"


def headline(evaluation: Evaluation) -> str:
    """The figures people ask for first, in one line."""
    worst = min(
        (
            (e.recall.value, label)
            for label, e in evaluation.classes.items()
            if e.support and e.recall.value is not None
        ),
        default=None,
    )
    accuracy, fpr = evaluation.headline["accuracy"], evaluation.metric("false_positive_rate")
    spread = (
        f" [{accuracy.low:.3f}, {accuracy.high:.3f}]" if accuracy.low is not None and accuracy.high is not None else ""
    )
    text = f"accuracy {accuracy.value:.3f}{spread}"
    if fpr is not None:
        text += f"  FPR {100 * fpr:.2f} %"
    return text + (f"  worst class {worst[1]} recall {worst[0]:.2f}" if worst else "")


def show_evaluation(evaluation: Evaluation, rates: BaseRates, files: Iterable[Path]) -> None:
    """Everything that `evaluate` found, and where its page (the first of `files`) and pictures lie."""
    console.line(f"{evaluation.model} {evaluation.version}", headline(evaluation))
    named = [(name, str(value)) for name, value in evaluation.headline.items()]
    named += [(name, _cell(value)) for name, value in evaluation.figures.items()]
    console.table(f"on {evaluation.dataset}: {evaluation.rows:,} flows", ["figure", "value [95 % interval]"], named)
    rows = [
        (label, _cell(e.precision), f"{e.recall:.3f}", _cell(e.f1), f"{e.support:,}")
        for label, e in evaluation.classes.items()
    ]
    console.table("", ["class", "precision", "recall", "F1", "support"], rows, right=("support",))
    if evaluation.evasion:
        under = [
            (name, str(p.detection), str(p.alert_recall), ", ".join(f"{v:.2f} {k}" for k, v in p.cost.items()))
            for name, p in evaluation.evasion.perturbations.items()
        ]
        under.append(
            ("worst for each tool", str(evaluation.evasion.detection), str(evaluation.evasion.alert_recall), "")
        )
        columns = ["attacks altered to evade", "detection rate", "alert recall", "cost to the attacker, times"]
        console.table("", columns, under)
    header, table = rates.compact()
    console.table(rates.title, header, table, right=header[1:])
    for note in [*evaluation.notes, *rates.notes]:
        console.remark(note)
    page, *pictures = files
    console.line("evaluation page", page.absolute().as_uri())
    for file in pictures:
        console.remark(file.absolute().as_uri())


def show_comparison(comparison: Comparison) -> None:
    one, other = comparison.candidate, comparison.champion
    names = [e.version if one.model == other.model else f"{e.model} {e.version}" for e in (one, other)]
    rows = [
        (d.metric, f"{d.candidate:.3f}", f"{d.champion:.3f}", f"{d.difference:.3f}") for d in comparison.differences
    ]
    title = f"{one.model} on {one.dataset}: {one.rows:,} flows"
    console.table(title, ["figure", *names, "difference [95 %]"], rows)
    console.remark(comparison.picture.absolute().as_uri())


def show_hardware(result: dict[str, Any]) -> None:
    """What `evaluate-on-hardware` found: figures on the device, without noise, and the difference on the same rows."""
    from robustidps.evaluation.hardware import HardwareEvaluation

    report = HardwareEvaluation.model_validate({k: v for k, v in result.items() if k != "file"})
    on_device, noiseless = report.on_device, report.noiseless
    console.line(f"{report.model} {report.version} on {report.target}", headline(on_device))
    console.line("noiseless, the same rows", headline(noiseless))
    console.line("rows given the same class", f"{report.agreement:.3f}")
    facts = ", ".join(f"{key.replace('_', ' ')} {_cell(value)}" for key, value in report.facts.items())
    console.line("run", facts)
    rows = [(d.metric, f"{d.candidate:.3f}", f"{d.champion:.3f}", f"{d.difference:.3f}") for d in report.differences]
    title = f"{report.rows:,} of {report.rows_there:,} labelled rows of {on_device.dataset}, seed {report.seed}"
    console.table(title, ["figure", "on device", "noiseless", "difference [95 %]"], rows)
    for note in on_device.notes:
        if "interval" in note:
            console.remark(note)
    console.remark(f"also in MLflow, at the version's run: {result['file']}")


def show_ageing(result: Aged) -> None:
    """A line a policy: areas under time and what they cost; then what the loop's rules said, and the files."""
    study = result.study
    rows = []
    for name, walk in study.walks.items():
        area = {metric: curve.area for metric, curve in study.curves[name].items()}
        rows.append(
            {
                "AUT": name,
                "macro-F1": f"{area['macro_f1']:.3f}",
                "detection": area["detection_rate"].value,
                "FPR": area["false_positive_rate"].value,
                "new tools": study.pooled(name)["detection_new_tools"],
                "labels": walk.labels,
                "trained": walk.trainings,
                "seconds": round(walk.seconds + walk.judging_s),
            }
        )
    right = ("detection", "FPR", "new tools", "labels", "trained", "seconds")
    Page("Area under time (AUT), and what it cost", rows, right).show()
    if loop := study.walks.get("loop"):
        refused = loop.count("refused") + loop.count("held")
        waited = f"; {loop.waited} days of waiting for labels to judge one on" if loop.waited else ""
        console.remark(f"the loop's challengers: {loop.count('promoted')} promoted, {refused} refused{waited}")
    for note in study.timeline.notes:
        console.remark(note)
    for file in result.files:
        console.remark(str(file))


def show_outcomes(name: str, version: str, outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        show_verdict(name, version, outcome.stage, outcome.verdict.model_dump(mode="json"), outcome.moved)
        if outcome.approval:
            wanted = outcome.approval
            console.line("approval", f"asked for until {wanted.expires_at:%Y-%m-%d %H:%M} UTC as {wanted.id}", "yellow")
            console.line("", f"somebody else: robustidps approve {wanted.id} --reason '...'", "yellow")


def show_verdict(name: str, version: str, stage: str, verdict: dict[str, Any], moved: bool) -> None:
    results = verdict["results"]
    passed = sum(r["passed"] is True for r in results)
    if moved:
        console.line("promotion", f"{name} {version} -> {stage}   ({passed} of {len(results)} rules)", "green")
        return
    said = "held back" if verdict["outcome"] == "hold" else "refused"
    reasons = [r["text"] for r in results if r["passed"] is not True]
    console.line("promotion", f"{name} {version} {said} for {stage}   ({passed} of {len(results)} rules)", "red")
    for reason in reasons:
        console.line("", reason, "red")


def family_rows(outcomes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a family of `train_all`: the figures of what was registered, if anything was."""
    from robustidps.evaluation.report import Interval

    rows = []
    for family, outcome in outcomes.items():
        figures = outcome["evaluation"]["headline"] if "evaluation" in outcome else {}
        name = f"{outcome['name']} {outcome['version']}" if figures else f"{family} failed"
        shown = {m: f"{Interval.model_validate(figures[m]):.3f}" if m in figures else None for m in SIDE_BY_SIDE}
        rows.append({"model": name, **shown})
    return rows


def show_families(result: Mapping[str, Any]) -> None:
    """What `train_all` gave: the table, then each refusal, each failure and what was left out."""
    outcomes = result["families"]
    rows = family_rows(outcomes)
    cells = ([_cell(value) for value in row.values()] for row in rows)
    title = f"on held-out traffic of {result['dataset']}, with 95 % intervals"
    console.table(title, list(rows[0]), cells, wrapped=list(rows[0]))
    for outcome in outcomes.values():
        for said in outcome["promotion"]:
            show_verdict(outcome["name"], outcome["version"], said["stage"], said["verdict"], said["moved"])
    for family, outcome in outcomes.items():
        if error := outcome["error"]:
            where = f"{error['where']}: " if error["where"] else ""
            remedy = f" ({error['remedy']})" if error["remedy"] else ""
            console.line(f"{family} failed", f"{where}{error['problem']}{remedy}", "red")
    for family, why in result["skipped"].items():
        console.remark(f"{family} left out: {'; '.join(filter(None, (why['problem'], why['remedy'])))}")
    for outcome in outcomes.values():
        if "page" in outcome:
            console.remark(Path(outcome["page"]).absolute().as_uri())
    made = [f"{o['name']}@{o['version']}" for o in outcomes.values() if "page" in o]
    if len(made) > 1:
        console.remark(f"whether two differ, on the same rows: robustidps compare {made[0]} {made[1]}")


def show_loihi(result: dict[str, Any]) -> None:
    from robustidps.loihi.report import LoihiReport

    r = LoihiReport.model_validate(result["report"])
    what = f"{'-'.join(map(str, r.sizes))}, {r.steps} steps, {r.rows:,} flows of {r.dataset}"
    console.line(f"{r.model} {r.version} on Loihi", what)
    for q in r.requirements:
        console.line("met" if q.passed else "NOT MET", f"{q.name}: {q.text}", "green" if q.passed else "red")
    c = r.cost
    console.line("accuracy", f"{c.accuracy_floating} floating point, {c.accuracy_fixed} fixed point")
    for chip in r.on_chip:
        fits = chip.refusal or f"{chip.cores} of {chip.available} cores"
        console.line(chip.chip, fits)
    console.line("energy (an estimate)", f"{r.running.energy_uj:.2f} uJ a flow; the report says what that leaves out")
    for claim in r.claims:
        console.line(claim.text, f"{claim.verdict}: {claim.why}")
    if result["alias"] is not None:
        given = result["alias"]["verdict"] == "promote"
        text = "given, and recorded" if given else "refused, and recorded: " + "; ".join(result["alias"]["reasons"])
        console.line("alias loihi", text, "green" if given else "red")
    for file in result["files"]:
        console.remark(Path(file).as_uri())


def show_training(result: dict[str, Any]) -> None:
    from robustidps.evaluation.report import Evaluation

    evaluation = Evaluation.model_validate(result["evaluation"])
    console.line(f"{result['name']} {result['version']}", f"registered, digest {result['digest'][:12]}")
    for text in str(result["split"]["text"]).splitlines():
        console.remark(text)
    console.line("on held-out traffic", headline(evaluation))
    if len(result["seeds"]) > 1:
        values = [s["metrics"]["accuracy"]["value"] for s in result["seeds"]]
        mean = sum(values) / len(values)
        console.line(f"{len(values)} seeds", f"accuracy {mean:.4f}, from {min(values):.4f} to {max(values):.4f}")
    console.line("drift against training", result["drift"]["headline"])
    for outcome in result["promotion"]:
        show_verdict(result["name"], result["version"], outcome["stage"], outcome["verdict"], outcome["moved"])
    console.line("evaluation page", Path(result["page"]).absolute().as_uri())
    for file in result["files"]:
        console.remark(Path(file).absolute().as_uri())
