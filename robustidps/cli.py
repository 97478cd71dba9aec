"""The command line: parse, call the library or a flow, print. Nothing heavy is imported before a command needs it.

Exit codes: 0 done; 1 a defect of ours; 2 a wrong command line; 3 bad input; 4 the rules said no; 5 not what it claims
to be; 6 unavailable or missing; 7 somebody else was first; 130 interrupted; 128 + n ended by signal n.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustidps import __version__, console
from robustidps.errors import ConfigError, RefusedError, RobustIDPSError

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry
    from robustidps.settings import Settings

app = typer.Typer(
    name="robustidps",
    help="Keeps intrusion-detection models fresh and safe: train, judge, promote by rules, serve, roll back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets and captures: list, fetch, describe, simulate.")
registry_app = typer.Typer(no_args_is_help=True, help="The registry's upkeep.")
app.add_typer(data_app, name="data", rich_help_panel="Traffic")
app.add_typer(registry_app, name="registry", rich_help_panel="Installation")

Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
Reason = Annotated[str, typer.Option("--reason", help="kept in the ledger")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="a public data set's folder, archive or file")]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="schema file of a table of yours (docs/data.md)")]
RuleSetName = Annotated[str | None, typer.Option("--rules", help="rule set in configs/promotion")]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="CSV of what the traffic is: by flow, or by capture (docs/data.md)")
]
Label = Annotated[str | None, typer.Option("--label", help="the class of the whole capture")]
LabelWords = Annotated[Path | None, typer.Option("--label-words", help="YAML: class to the words that stand for it")]
LabelsTimezone = Annotated[
    str, typer.Option("--labels-timezone", help="of label times without one: UTC, -03:00 or America/Halifax")
]
LabelsShift = Annotated[
    float, typer.Option("--labels-shift", help="hours added to all label times, for a clock that was wrong")
]
LabelsTolerance = Annotated[
    float, typer.Option("--labels-tolerance", help="seconds that a flow may begin outside a label's time")
]
EvadedFile = Annotated[
    Path | None,
    typer.Option("--evaded", help="attacks altered to evade (`data evade`); default: those recorded with the version"),
]
Truncated = Annotated[
    Literal["refuse", "use"],
    typer.Option("--truncated", help="a capture that is cut off: refuse it, or use its whole part"),
]
Name = Annotated[str, typer.Argument(help="registered model")]


@app.callback()
def _options(
    home: Annotated[Path | None, typer.Option("--home", help="folder everything lies under (ROBUSTIDPS_HOME)")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks and logs")] = False,
    version: Annotated[bool, typer.Option("--version", help="print the version and end", is_eager=True)] = False,
) -> None:
    if version:
        console.out.print(f"robustidps {__version__}")
        raise typer.Exit
    _given.update({k: v for k, v in {"home": home, "debug": debug or None}.items() if v is not None})
    if _given:
        _settings()  # in force before anything looks into HOME/configs


_given: dict[str, Any] = {}
"""Settings given as options of the command line."""


def _settings() -> Settings:
    from robustidps.settings import configure

    return configure(**_given)


def _registry() -> ModelRegistry:
    from robustidps.registry.registry import ModelRegistry

    return ModelRegistry(settings=_settings())


def _flows() -> None:
    """Readies Prefect before any flow is imported."""
    from robustidps.flows import embedded

    embedded(_settings())


def _overrides(pairs: list[str]) -> dict[str, Any]:
    """`--set key=value` options as a mapping; values are read as YAML, so that 3 is a number and true a truth."""
    from robustidps.settings import parse_yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{pair!r} is not of the form key=value", where="--set")
        found[key.strip()] = parse_yaml(value, f"--set {key.strip()}")
    return found


@app.command(rich_help_panel="Start here")
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="go on in an earlier demo's folder instead of beginning anew")
    ] = False,
    as_json: Json = False,
) -> None:
    """The main job, end to end, on simulated traffic: train, judge, promote, refuse, score. Under five minutes."""
    around = Path(os.environ.get("ROBUSTIDPS_HOME", ".robustidps"))
    _given.setdefault("home", around if (around / DEMO_MARKER).exists() else around / "demo")
    _begin_anew(_settings().home, keep)
    _flows()
    from robustidps.flows.demo import demo as flow

    with console.bars(not as_json):
        summary = flow(quiet=as_json)
    if as_json:
        console.emit_json(summary)
    if summary["production"] is None or summary["refused"] is None:
        raise RobustIDPSError("the demo didn't end as it should", remedy="see what was refused above")


DEMO_MARKER = ".robustidps-demo"


def _begin_anew(home: Path, keep: bool) -> None:
    """Removes an earlier demo's home; it is recognised by a marker, so that no other folder is ever removed."""
    import shutil

    from robustidps.settings import writable

    marker = home / DEMO_MARKER
    if home.exists() and any(home.iterdir()):
        if not marker.exists():
            raise ConfigError("holds something that no demo made", where=home, remedy="name another folder with --home")
        if keep:
            return
        with writable(home):
            shutil.rmtree(home)
    with writable(home):
        home.mkdir(parents=True, exist_ok=True)
        marker.write_text("made by `robustidps demo`, which removes this folder when it begins anew\n")


@app.command(rich_help_panel="Models")
def train(
    family: Annotated[str, typer.Argument(help="model family (`robustidps models --families`)")] = "neural_ode",
    dataset: Annotated[str, typer.Option(help="name (`robustidps data list`), or a Parquet or CSV file")] = "simulated",
    data_dir: DataDir = None,
    schema: SchemaFile = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="a setting of the family: key=value")] = None,
    name: Annotated[
        str | None, typer.Option(help="registered model; default: the family, with the data set's suffix")
    ] = None,
    version: Annotated[str | None, typer.Option(help="semantic version; default: the next minor one")] = None,
    breaking: Annotated[bool, typer.Option("--breaking", help="take the next major number")] = False,
    seeds: Annotated[
        int, typer.Option(min=1, max=20, help="train this many; the best on validation is registered")
    ] = 1,
    split: Annotated[
        Literal["temporal", "official", "captures", "shuffled"] | None,
        typer.Option(help="how traffic is held out; default: the data set's way"),
    ] = None,
    limit_rows: Annotated[int | None, typer.Option(min=1, help="train on a random sample of this many rows")] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out", help="keep out of training: tool=NAME, service=NAME or day=YYYY-MM-DD; may be repeated"
        ),
    ] = None,
    promote_to: Annotated[
        Literal["Staging", "Production"] | None, typer.Option(help="ask the rules for this stage afterwards")
    ] = None,
    rules: RuleSetName = None,
    description: Annotated[str, typer.Option(help="a sentence that is kept with the version")] = "",
    as_json: Json = False,
) -> None:
    """Train a model, judge it on traffic it has not seen, and register it."""
    from robustidps.families import family_settings, get_family
    from robustidps.judging import rule_set
    from robustidps.registry.metadata import check_version
    from robustidps.settings import check_name
    from robustidps.traffic.holdout import HoldOut
    from robustidps.traffic.prepare import dataset_config

    overrides = _overrides(settings or [])
    family_settings(get_family(family), overrides)  # before anything slow: a wrong setting ends here
    config = dataset_config(dataset)
    held_out = HoldOut.parse(hold_out or []).words()
    if name is not None:
        check_name(name)
    if version is not None:
        check_version(version)
    rule_set(rules or config.rules)
    _flows()
    from robustidps.flows.train import train as flow

    with console.bars(not as_json):
        result = flow(
            family=family,
            dataset=dataset,
            data_dir=str(data_dir.absolute()) if data_dir else None,
            schema_file=str(schema.absolute()) if schema else None,
            overrides=overrides,
            name=name,
            version=version,
            breaking=breaking,
            seeds=seeds,
            split=split,
            limit_rows=limit_rows,
            hold_out=held_out,
            promote_to=promote_to,
            rules=rules,
            description=description,
        )
    if as_json:
        console.emit_json(result)
    else:
        from robustidps.pages import show_training

        show_training(result)
    if promote_to and not (result["promotion"] and result["promotion"][-1]["moved"]):
        raise typer.Exit(RefusedError.exit_code)


@app.command(rich_help_panel="Models")
def unify(
    members: Annotated[list[str], typer.Argument(help="registered versions, two or more: NAME@VERSION")],
    dataset: Annotated[str, typer.Option(help="what the members were trained on")] = "simulated",
    data_dir: DataDir = None,
    schema: SchemaFile = None,
    name: Annotated[
        str | None, typer.Option(help="registered model; default: unified, with the data set's suffix")
    ] = None,
    version: Annotated[str | None, typer.Option(help="semantic version; default: the next minor one")] = None,
    breaking: Annotated[bool, typer.Option("--breaking", help="take the next major number")] = False,
    split: Annotated[
        Literal["temporal", "official", "captures", "shuffled"] | None,
        typer.Option(help="how traffic is held out; default: the data set's way"),
    ] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out",
            help="what members were trained without: tool=NAME, service=NAME or day=YYYY-MM-DD; may be repeated",
        ),
    ] = None,
    promote_to: Annotated[
        Literal["Staging", "Production"] | None, typer.Option(help="ask the rules for this stage afterwards")
    ] = None,
    rules: RuleSetName = None,
    description: Annotated[str, typer.Option(help="a sentence that is kept with the version")] = "",
    as_json: Json = False,
) -> None:
    """Make one model of several registered versions: their weighted mean, as one graph; judge and register it."""
    from robustidps.registry.metadata import check_version
    from robustidps.settings import check_name
    from robustidps.traffic.holdout import HoldOut

    held_out = HoldOut.parse(hold_out or []).words()
    if name is not None:
        check_name(name)
    if version is not None:
        check_version(version)
    _flows()
    from robustidps.flows.unify import unify as flow

    with console.bars(not as_json):
        result = flow(
            members=members,
            dataset=dataset,
            data_dir=str(data_dir.absolute()) if data_dir else None,
            schema_file=str(schema.absolute()) if schema else None,
            name=name,
            version=version,
            breaking=breaking,
            split=split,
            hold_out=held_out,
            promote_to=promote_to,
            rules=rules,
            description=description,
        )
    if as_json:
        console.emit_json(result)
    else:
        from robustidps.pages import show_training

        for member in result["settings"]["members"]:
            console.line(f"{member['model']} {member['version']}", f"weight {member['weight']:.3f}")
        show_training(result)
    if promote_to and not (result["promotion"] and result["promotion"][-1]["moved"]):
        raise typer.Exit(RefusedError.exit_code)


@app.command(rich_help_panel="Models")
def models(
    families: Annotated[bool, typer.Option("--families", help="list what can be trained instead")] = False,
    name: Annotated[str | None, typer.Argument(help="one registered model: list its versions")] = None,
    as_json: Json = False,
) -> None:
    """Registered models with their stages, one model's versions, or the families that can be trained."""
    from robustidps import pages

    content = pages.families() if families else pages.versions(_registry(), name) if name else pages.models(_registry())
    console.emit_json(content.rows) if as_json else content.show()


@app.command(rich_help_panel="Models")
def evaluate(
    name: Name,
    version: Annotated[str, typer.Argument(help="a version, or `production`, `staging`, `latest`")] = "production",
    on: Annotated[
        Path | None, typer.Option("--on", help="labelled traffic (Parquet); default: what it was held out from")
    ] = None,
    evaded: EvadedFile = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for page and pictures")] = None,
    as_json: Json = False,
) -> None:
    """Judge a registered version anew: figures with intervals, base rates, a page and pictures."""
    from robustidps.comparing import evaluate_version
    from robustidps.evaluation.base_rates import base_rates
    from robustidps.pages import show_evaluation

    with console.bars(not as_json):
        evaluation, files = evaluate_version(_registry(), name, version, on=on, evaded=evaded, folder=out)
    rates = base_rates(evaluation, _settings().alerts_per_analyst)
    if as_json:
        more = {"base_rates": rates.model_dump(mode="json"), "files": [str(file.absolute()) for file in files]}
        console.emit_json(evaluation.model_dump(mode="json") | more)
    else:
        show_evaluation(evaluation, rates, files)


@app.command(rich_help_panel="Models")
def compare(
    candidate: Annotated[str, typer.Argument(help="NAME or NAME@VERSION (a version, production, staging or latest)")],
    champion: Annotated[str, typer.Argument(help="what it is compared with")],
    on: Annotated[
        Path | None, typer.Option("--on", help="labelled traffic (Parquet); default: the first's held-out set")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for the picture")] = None,
    as_json: Json = False,
) -> None:
    """Two versions side by side on the same traffic, per class, with paired intervals and a picture."""
    from robustidps.comparing import compare_versions
    from robustidps.pages import show_comparison

    with console.bars(not as_json):
        comparison = compare_versions(_registry(), candidate, champion, on=on, folder=out)
    console.emit_json(comparison.as_dict()) if as_json else show_comparison(comparison)


@app.command(rich_help_panel="Models")
def ageing(
    dataset: Annotated[
        str | None,
        typer.Option(help="labelled traffic with times: a name or a file; default: a scenario"),
    ] = None,
    data_dir: DataDir = None,
    schema: SchemaFile = None,
    scenario: Annotated[
        str, typer.Option(help="simulated months in configs/ageing, where no data set is named")
    ] = "short",
    family: Annotated[str, typer.Option(help="model family (`robustidps models --families`)")] = "neural_ode",
    settings: Annotated[list[str] | None, typer.Option("--set", help="a setting of the family: key=value")] = None,
    policies: Annotated[str, typer.Option(help="of frozen, weekly, daily, loop; separated by commas")] = (
        "frozen,weekly,daily,loop"
    ),
    labels_per_day: Annotated[int, typer.Option(min=1, help="labels that can be bought a day")] = 60,
    start_labels: Annotated[int, typer.Option(min=50, help="labels that the first model is trained on")] = 3000,
    start_days: Annotated[int, typer.Option(min=2, help="days that those come from")] = 14,
    delay_days: Annotated[int, typer.Option(min=1, help="days from buying a label to having it")] = 3,
    slot_days: Annotated[int, typer.Option(min=1, help="days that one point of the curve sums up")] = 7,
    seed: Annotated[int, typer.Option(min=0, help="of the simulation, of training and of random choices")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="folder for the picture and the figures")] = None,
    as_json: Json = False,
) -> None:
    """How detection ages: frozen, retrained by the calendar, or our loop, at an equal budget of labels."""
    from robustidps import pages
    from robustidps.evaluation.ageing.command import age

    with console.bars(not as_json):
        result = age(
            _settings(),
            dataset=dataset,
            data_dir=data_dir,
            schema_file=schema,
            scenario_name=scenario,
            family=family,
            overrides=_overrides(settings or []),
            policies=[p.strip() for p in policies.split(",") if p.strip()],
            out=out,
            labels_per_day=labels_per_day,
            start_labels=start_labels,
            start_days=start_days,
            delay_days=delay_days,
            slot_days=slot_days,
            seed=seed,
        )
    console.emit_json(result.as_dict()) if as_json else pages.show_ageing(result)


@app.command(rich_help_panel="Stages")
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="the version to move")],
    to: Annotated[Literal["Staging", "Production"], typer.Option("--to", help="how far")] = "Production",
    rules: RuleSetName = None,
    on: Annotated[Path | None, typer.Option("--on", help="labelled traffic (Parquet) to judge on")] = None,
    evaded: EvadedFile = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Ask the rules whether a version may move up, and move it if it may. Exit code 4 when it may not."""
    from robustidps.judging import promote as move
    from robustidps.pages import show_outcomes
    from robustidps.progress import current
    from robustidps.traffic.trafficset import TrafficSet

    with console.bars(not as_json):
        held_out = TrafficSet.read(on) if on else None
        altered = TrafficSet.read(evaded) if evaded else None
        outcomes = move(
            _registry(),
            name,
            version,
            to,
            rules=rules,
            held_out=held_out,
            evaded=altered,
            reason=reason,
            progress=current(),
        )
    console.emit_json([o.as_dict() for o in outcomes]) if as_json else show_outcomes(name, version, outcomes)
    if not outcomes[-1].moved:
        raise typer.Exit(RefusedError.exit_code)


@app.command(rich_help_panel="Stages")
def rollback(name: Name, reason: Reason = "", as_json: Json = False) -> None:
    """Put the retained previous version back into production. One commit, offline; then MLflow's aliases follow."""
    registry = _registry()
    decision = registry.rollback(name, reason=reason)
    if as_json:
        console.emit_json(decision.as_dict())
    else:
        console.line(name, f"{decision.from_version} -> {decision.version} (Production)", "green")
    sys.stdout.flush()
    _let_mlflow_follow(registry, name)


def _let_mlflow_follow(registry: ModelRegistry, name: str) -> None:
    """Brings MLflow's picture in line with a move that stands already: whatever hinders it is a remark, no failure."""
    from importlib.util import find_spec

    if find_spec("mlflow") is None:
        return
    try:
        registry.ensure_projected(name)
    except (RobustIDPSError, KeyboardInterrupt) as error:
        why = str(error) or "interrupted"
        console.remark(f"the rollback stands; MLflow's aliases follow later (robustidps registry repair): {why}")


@app.command(rich_help_panel="Stages")
def history(
    name: Annotated[str | None, typer.Argument(help="one model; default: all")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="check hashes and signatures of the whole ledger")] = False,
    as_json: Json = False,
) -> None:
    """What was decided about a model, when, by whom and why; `--verify` finds any edit."""
    from robustidps import pages

    registry = _registry()
    if verify:
        report = registry.verify(name)
        console.emit_json(report.as_dict()) if as_json else console.line("ledger", str(report), "green")
        return
    content = pages.history(registry, name)
    console.emit_json(content.rows) if as_json else content.show()


@app.command(rich_help_panel="Traffic")
def ingest(
    capture: Annotated[Path, typer.Argument(help="a .pcap or .pcapng file; with --labels also a folder of them")],
    out: Annotated[Path | None, typer.Option("--out", help="Parquet file; default: beside the capture")] = None,
    truncated: Truncated = "refuse",
    labels: Labels = None,
    label: Label = None,
    unmatched: Annotated[
        Literal["unlabelled", "benign"], typer.Option("--unmatched", help="what flows without a label are")
    ] = "unlabelled",
    max_unmatched: Annotated[
        float, typer.Option("--max-unmatched", help="error when a larger share of the labels meets no flow, or clashes")
    ] = 0.5,
    label_words: LabelWords = None,
    labels_timezone: LabelsTimezone = "UTC",
    labels_shift: LabelsShift = 0.0,
    labels_tolerance: LabelsTolerance = 1.0,
    max_bytes: Annotated[int | None, typer.Option(help="refuse a larger capture")] = None,
    max_flows: Annotated[int | None, typer.Option(help="end after this many flows")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="end extraction after this time")] = None,
    max_memory: Annotated[int | None, typer.Option(help="bytes of memory that extraction may use")] = None,
    as_json: Json = False,
) -> None:
    """Turn a packet capture, or a folder of labelled ones, into flows (Parquet, schema flow64)."""
    from robustidps.progress import current
    from robustidps.settings import exists
    from robustidps.traffic.capture import Limits
    from robustidps.traffic.capture import ingest as read
    from robustidps.traffic.labelling import LabelOptions, labelled_capture, labelled_captures

    chosen: dict[str, Any] = {
        "bytes": max_bytes,
        "flows": max_flows,
        "seconds": max_seconds,
        "memory_bytes": max_memory,
    }
    limits = Limits(**{k: v for k, v in chosen.items() if v is not None})
    options = LabelOptions(
        label_words, unmatched, max_unmatched, labels_timezone, labels_shift * 3600.0, labels_tolerance
    )
    if labels is None and options != LabelOptions(words=label_words if label is not None else None):
        raise ConfigError("options about labels were given, and no label file", remedy="name it with --labels FILE")
    if labels and label is not None:
        raise ConfigError("--label and --labels exclude each other", remedy="give one of them")
    target = _beside(capture, out, labels)
    how: dict[str, Any] = {"limits": limits, "truncated": truncated}
    report = None
    with console.bars(not as_json):
        how["progress"] = current()
        if labels and exists(capture) and capture.is_dir():
            traffic, report = labelled_captures(capture, labels, options=options, **how)
        elif labels or label is not None:
            traffic, report = labelled_capture(capture, labels, label=label, options=options, **how)
        else:
            traffic = read(capture, **how)
        traffic.write(target)
    facts = {"flows": len(traffic), "file": str(target), "digest": traffic.digest}
    if as_json:
        found = {"labels": report.to_dict(), "captures": traffic.provenance["captures"]} if report else {}
        console.emit_json(facts | (found or {"capture": traffic.provenance}))
        return
    console.line(capture.name, f"{len(traffic):,} flows -> {target}")
    for text in report.lines() if report else ():
        console.remark(text)


def _beside(capture: Path, out: Path | None, labels: Path | None) -> Path:
    """Where the flows of a capture, or of a folder of them, go; never over what they are made from."""
    from robustidps.settings import exists
    from robustidps.traffic.capture import CAPTURE_SUFFIXES

    folder = exists(capture) and capture.is_dir()
    whole = Path(os.path.realpath(capture)) if folder else capture
    target = out or whole.parent / f"{whole.name if folder else whole.stem}.parquet"
    for what, path in (("the capture itself", capture), ("the label file", labels)):
        if path and os.path.realpath(target) == os.path.realpath(path):
            raise ConfigError(f"is {what}", where=f"--out {target}", remedy="name another file")
    if folder and target.suffix.lower() in CAPTURE_SUFFIXES:
        raise ConfigError("ends as a capture does", where=f"--out {target}", remedy="end it in .parquet")
    return target


@app.command(rich_help_panel="Traffic")
def score(
    traffic: Annotated[Path, typer.Argument(help="a capture, or a Parquet file from `ingest`")],
    model: Annotated[str, typer.Option("--model", help="NAME or NAME@VERSION")] = "neural_ode@production",
    out: Annotated[Path | None, typer.Option("--out", help="a row per flow, as .parquet or .csv")] = None,
    truncated: Truncated = "refuse",
    as_json: Json = False,
) -> None:
    """Score a capture or flows with the production model."""
    from robustidps import pages
    from robustidps.comparing import resolve
    from robustidps.progress import current
    from robustidps.scoring import read_traffic
    from robustidps.scoring import score as judge_flows

    bundle = resolve(_registry(), model)
    with console.bars(not as_json):
        flows = read_traffic(traffic, truncated=truncated, progress=current())
        scores = judge_flows(bundle, flows)
        if out:
            scores.write(out)
    meta = bundle.metadata
    facts = {"model": meta.name, "version": meta.version, "flows": len(flows), "verdicts": scores.counts()}
    if as_json:
        console.emit_json(facts | {"file": str(out) if out else None})
    else:
        console.line(f"{meta.name} {meta.version}", pages.verdict_line(scores))
        if out:
            console.remark(f"a row per flow: {out}")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """Data sets that can be named, and how each is split and judged."""
    from robustidps import pages

    content = pages.datasets()
    console.emit_json(content.rows) if as_json else content.show()


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str | None, typer.Argument(help="a public data set; default: list them")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="folder; default: datasets/NAME in the home folder")] = None,
    as_json: Json = False,
) -> None:
    """Download a public data set from its authors, or say what to do where a form stands in between (exit code 6).

    An interrupted download goes on where it ended. Without a name: which sets can be downloaded, which need a form.
    """
    from robustidps import pages
    from robustidps.progress import current
    from robustidps.traffic.fetch import fetch

    if name is None:
        if to is not None:
            raise ConfigError("needs the name of a data set", where="--to", remedy="robustidps data fetch lists them")
        content = pages.fetchable()
        console.emit_json(content.rows) if as_json else content.show()
        return
    with console.bars(not as_json):
        fetched = fetch(name, to, progress=current())
    following = pages.next_commands(fetched)
    if as_json:
        console.emit_json(fetched.to_dict() | {"next": following})
    else:
        pages.show_fetched(fetched, following)


@data_app.command("describe")
def data_describe(
    path: Annotated[Path, typer.Argument(help="a capture, a Parquet file, or a data set's file, archive or folder")],
    as_json: Json = False,
) -> None:
    """What a file or folder is: capture, traffic set, or a release of a public data set."""
    from robustidps import pages

    with console.bars(not as_json):
        content = pages.describe(path)
    console.emit_json(content.rows) if as_json else content.show()


@data_app.command("evade")
def data_evade(
    capture: Annotated[Path, typer.Argument(help="a .pcap file of Ethernet frames with attacks in it")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file for the altered attacks' flows")],
    labels: Labels = None,
    label: Label = None,
    label_words: LabelWords = None,
    labels_timezone: LabelsTimezone = "UTC",
    labels_shift: LabelsShift = 0.0,
    labels_tolerance: LabelsTolerance = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn at random")] = 0,
    as_json: Json = False,
) -> None:
    """Alter a capture's attacks so that they evade, within what protocols allow (docs/evaluation.md#evasion)."""
    from robustidps import pages
    from robustidps.traffic.labelling import LabelOptions

    if (labels is None) == (label is None):
        raise ConfigError("nobody says what is an attack", remedy="give either --labels FILE or --label CLASS")
    _beside(capture, out, labels)
    options = LabelOptions(
        label_words, timezone=labels_timezone, shift_s=labels_shift * 3600.0, tolerance_s=labels_tolerance
    )
    with console.bars(not as_json):
        content = pages.evade(capture, out, labels, label, options, seed)
    console.emit_json(content.rows) if as_json else content.show()


@data_app.command("simulate")
def data_simulate(
    out: Annotated[Path, typer.Argument(help="folder for the captures and the labels")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="a knob of the simulator: key=value")] = None,
    flows: Annotated[bool, typer.Option("--flows", help="extract labelled flows as well")] = False,
    as_json: Json = False,
) -> None:
    """Simulate labelled traffic as real pcap files (docs/simulator.md lists the knobs)."""
    from robustidps import pages

    with console.bars(not as_json):
        content = pages.simulate(out, _overrides(settings or []), flows)
    console.emit_json(content.rows) if as_json else content.show()


@registry_app.command("repair")
def registry_repair(as_json: Json = False) -> None:
    """Bring MLflow's aliases and tags in line with the decisions, and finish what a killed run left."""
    with console.bars(not as_json):
        done = _registry().repair()
    if as_json:
        console.emit_json(done)
        return
    for text in done or ["nothing to repair"]:
        console.line("registry", text)


@registry_app.command("add")
def registry_add(
    name: Name,
    version: Annotated[str, typer.Argument(help="semantic version, not taken yet")],
    path: Annotated[
        Path,
        typer.Argument(help="bundle folder, .onnx, .keras, SavedModel folder, .safetensors or .pt (weights alone)"),
    ],
    metadata: Annotated[
        Path | None, typer.Option("--metadata", help="JSON: what the version is (docs/your-own-model.md)")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", help="schema.json of a bundle, or a table's schema file; default: the rows', or flow64"
        ),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="traffic (Parquet) to try it on, better what it was trained on")
    ] = None,
    features: Annotated[
        Literal["raw", "standardised"], typer.Option("--features", help="what the model takes")
    ] = "raw",
    output: Annotated[
        Literal["auto", "logits", "probabilities"], typer.Option("--output", help="what the model gives")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Register a model that was made elsewhere: checked, tried in a process of its own, converted to a bundle."""
    from robustidps.importing.given import read_metadata, read_schema
    from robustidps.progress import current
    from robustidps.registry.adoption import is_bundle
    from robustidps.traffic.trafficset import TrafficSet

    registry = _registry()
    with console.bars(not as_json):
        if is_bundle(path) and metadata is None:
            record = registry.register_model(name, version, path)
        else:
            traffic = TrafficSet.read(rows) if rows else None
            meant = read_schema(schema) if schema else None
            told = read_metadata(
                metadata, name, version, meant or (traffic.schema if traffic is not None else None), path
            )
            how: dict[str, Any] = {"features": features, "output": output, "progress": current()}
            record = registry.register_model(name, version, path, told, schema=meant, rows=traffic, **how)
    if as_json:
        console.emit_json({"model": record.model, "version": record.version, "digest": record.digest})
    else:
        console.line(f"{record.model} {record.version}", f"registered, bundle {str(record.digest)[:12]}", "green")
        console.remark(f"judge it on traffic it hasn't seen: robustidps promote {name} {version} --on FILE.parquet")


@app.command(rich_help_panel="Installation")
def doctor(as_json: Json = False) -> None:
    """What is installed, reachable and writable, and what to do about the rest. Exit code 6 if something fails."""
    from dataclasses import asdict

    from robustidps.doctor import examine

    findings = list(examine(_settings()))
    if as_json:
        console.emit_json([asdict(f) for f in findings])
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for f in findings:
            console.line(f"{f.status:<4}  {f.what}", f.text + (f": {f.remedy}" if f.remedy else ""), colours[f.status])
    if any(f.status == "fail" for f in findings):
        raise typer.Exit(6)


@app.command(rich_help_panel="Installation")
def ui() -> None:
    """Start the MLflow and Prefect pages on loopback and print their addresses; Ctrl-C ends both."""
    import time
    from contextlib import ExitStack

    from robustidps.progress import current
    from robustidps.servers import running

    with ExitStack() as stack:
        with console.bars():
            servers = stack.enter_context(running(_settings(), progress=current()))
        for server in servers:
            console.line(server.name, server.url)
        console.remark("Ctrl-C ends both")
        try:
            while all(server.alive for server in servers):
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.remark("ending")
            return
        raise RobustIDPSError(f"{next(s.name for s in servers if not s.alive)} ended by itself", remedy="see HOME/logs")


def main() -> None:
    """Entry point: runs the command line and turns our errors into one message and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # ended from outside: what was started ends too
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    try:
        app(standalone_mode=True)
    except RobustIDPSError as error:
        if "--debug" in sys.argv or os.environ.get("ROBUSTIDPS_DEBUG", "").lower() in ("1", "true"):
            raise
        console.fail(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        console.remark("interrupted")
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 130:  # typer has turned a Ctrl-C into this, and says nothing
            console.remark("interrupted")
        raise
