"""Commands about models: train, judge, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings, open_registry, ready_flows
from robustidps.cli._options import (
    Breaking,
    DataDir,
    Description,
    EvadedFile,
    HeldOut,
    Json,
    Name,
    NewVersion,
    PromoteTo,
    RuleSetName,
    SchemaFile,
    Split,
    overrides_by_family,
    overrides_of,
)
from robustidps.errors import RefusedError


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
    version: NewVersion = None,
    breaking: Breaking = False,
    seeds: Annotated[
        int, typer.Option(min=1, max=20, help="train this many; the best on validation is registered")
    ] = 1,
    split: Split = None,
    limit_rows: Annotated[int | None, typer.Option(min=1, help="train on a random sample of this many rows")] = None,
    hold_out: HeldOut = None,
    promote_to: PromoteTo = None,
    rules: RuleSetName = None,
    description: Description = "",
    as_json: Json = False,
) -> None:
    """Train a model, judge it on traffic it has not seen, and register it."""
    from robustidps.families import family_settings, get_family
    from robustidps.judging import rule_set
    from robustidps.traffic.holdout import HoldOut
    from robustidps.traffic.prepare import dataset_config

    overrides = overrides_of(settings or [])
    family_settings(get_family(family), overrides)  # before anything slow: a wrong setting ends here
    config = dataset_config(dataset)
    held_out = HoldOut.parse(hold_out or []).words()
    _check_target(name, version)
    rule_set(rules or config.rules)
    ready_flows()
    from robustidps.flows.train import train as flow

    with console.bars(not as_json):
        result = flow(
            family=family,
            dataset=dataset,
            data_dir=_absolute(data_dir),
            schema_file=_absolute(schema),
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
    _show_candidate(result, promote_to, as_json)


@app.command(rich_help_panel="Models")
def train_all(
    families: Annotated[list[str] | None, typer.Argument(help="which; default: all that can be trained here")] = None,
    dataset: Annotated[str, typer.Option(help="name (`robustidps data list`), or a Parquet or CSV file")] = "simulated",
    data_dir: DataDir = None,
    schema: SchemaFile = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="a setting of one of them: FAMILY.key=value")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=20, help="train this many of each; the best on validation is registered")
    ] = 1,
    split: Split = None,
    limit_rows: Annotated[int | None, typer.Option(min=1, help="train on a random sample of this many rows")] = None,
    hold_out: HeldOut = None,
    promote_to: PromoteTo = None,
    rules: RuleSetName = None,
    description: Description = "",
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask",
            help="local: processes of this machine; tcp:// or tls://HOST:PORT: a scheduler; off: threads. "
            "Default: the setting `dask`",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="how many at once; default: what the machine has room for")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train several families side by side on the same traffic, register each, and compare them.

    One that fails stops no other; the exit code is then the first failure's.
    """
    from robustidps.families import choose
    from robustidps.judging import rule_set
    from robustidps.pages import show_families
    from robustidps.traffic.holdout import HoldOut
    from robustidps.traffic.prepare import dataset_config
    from robustidps.workers import check_place

    overrides = overrides_by_family(settings or [])
    chosen, _ = choose(families, overrides)
    held_out = HoldOut.parse(hold_out or []).words()
    rule_set(rules or dataset_config(dataset).rules)
    check_place(dask)
    ready_flows()
    from robustidps.flows.train_all import train_all as flow

    with console.bars(not as_json):
        state: Any = flow(
            families=families or None,
            dataset=dataset,
            data_dir=_absolute(data_dir),
            schema_file=_absolute(schema),
            overrides=overrides,
            seeds=seeds,
            split=split,
            limit_rows=limit_rows,
            hold_out=held_out,
            promote_to=promote_to,
            rules=rules,
            description=description,
            dask=dask,
            workers=workers,
            return_state=True,
        )
        result = state.result(raise_on_failure=False)  # a family that failed makes the run fail, and there is a result
    if isinstance(result, BaseException):
        raise result
    console.emit_json(result) if as_json else show_families(result)
    outcomes = [result["families"][family] for family in chosen]
    for outcome in outcomes:
        if outcome["error"]:
            raise typer.Exit(outcome["error"]["exit_code"])
    if promote_to and not all(o["promotion"] and o["promotion"][-1]["moved"] for o in outcomes):
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
    version: NewVersion = None,
    breaking: Breaking = False,
    split: Split = None,
    hold_out: HeldOut = None,
    promote_to: PromoteTo = None,
    rules: RuleSetName = None,
    description: Description = "",
    as_json: Json = False,
) -> None:
    """Make one model of several registered versions: their weighted mean, as one graph; judge and register it."""
    from robustidps.traffic.holdout import HoldOut

    held_out = HoldOut.parse(hold_out or []).words()
    _check_target(name, version)
    ready_flows()
    from robustidps.flows.unify import unify as flow

    with console.bars(not as_json):
        result = flow(
            members=members,
            dataset=dataset,
            data_dir=_absolute(data_dir),
            schema_file=_absolute(schema),
            name=name,
            version=version,
            breaking=breaking,
            split=split,
            hold_out=held_out,
            promote_to=promote_to,
            rules=rules,
            description=description,
        )
    if not as_json:
        for member in result["settings"]["members"]:
            console.line(f"{member['model']} {member['version']}", f"weight {member['weight']:.3f}")
    _show_candidate(result, promote_to, as_json)


def _check_target(name: str | None, version: str | None) -> None:
    """Whether a version to be made can be called so; before anything slow."""
    from robustidps.registry.metadata import check_version
    from robustidps.settings import check_name

    if name is not None:
        check_name(name)
    if version is not None:
        check_version(version)


def _absolute(path: Path | None) -> str | None:
    """A path as a flow takes it, which may run in another folder."""
    return str(path.absolute()) if path else None


def _show_candidate(result: dict[str, Any], promote_to: str | None, as_json: bool) -> None:
    """What became of a new version; ends with the exit code of a refusal where it was to move up and didn't."""
    from robustidps.pages import show_training

    console.emit_json(result) if as_json else show_training(result)
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

    content = (
        pages.families()
        if families
        else pages.versions(open_registry(), name)
        if name
        else pages.models(open_registry())
    )
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
        evaluation, files = evaluate_version(open_registry(), name, version, on=on, evaded=evaded, folder=out)
    rates = base_rates(evaluation, current_settings().alerts_per_analyst)
    if as_json:
        more = {"base_rates": rates.model_dump(mode="json"), "files": [str(file.absolute()) for file in files]}
        console.emit_json(evaluation.model_dump(mode="json") | more)
    else:
        show_evaluation(evaluation, rates, files)


@app.command("evaluate-on-hardware", rich_help_panel="Models")
def evaluate_on_hardware(
    name: Name,
    version: Annotated[str, typer.Argument(help="a version, or `production`, `staging`, `latest`")] = "production",
    backend: Annotated[
        str | None, typer.Option(help="IBM's, by name; fake_manila and its like are simulated here, without an account")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="a PennyLane device, such as lightning.qubit; default: what its settings name")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="labelled rows to run, drawn uniformly")] = 256,
    on: Annotated[
        Path | None, typer.Option("--on", help="labelled traffic (Parquet); default: what it was held out from")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="measurements for each row; default: exact, or 1024")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="of the rows drawn, and of simulated shots")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="an option of the device: key=value")] = None,
    as_json: Json = False,
) -> None:
    """Run a quantum version's circuit on a device or on IBM's hardware, beside itself without noise (docs/quantum.md).

    An account of IBM Quantum is read from QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE. Ctrl-C cancels the job.
    """
    from robustidps.errors import ConfigError

    if backend is not None and device is not None:
        raise ConfigError("--backend and --device exclude each other", remedy="give one of them")
    options = overrides_of(settings or [])
    if backend is not None and options:
        raise ConfigError("is for PennyLane devices", where="--set", remedy="leave it out with --backend")
    ready_flows()
    from robustidps.flows.evaluate_on_hardware import evaluate_on_hardware as flow

    with console.bars(not as_json):
        result = flow(
            name=name,
            version=version,
            backend=backend,
            device=device,
            rows=rows,
            on=str(on.absolute()) if on else None,
            shots=shots,
            seed=seed,
            options=options,
        )
    if as_json:
        console.emit_json(result)
    else:
        from robustidps.pages import show_hardware

        show_hardware(result)


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
        comparison = compare_versions(open_registry(), candidate, champion, on=on, folder=out)
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
            current_settings(),
            dataset=dataset,
            data_dir=data_dir,
            schema_file=schema,
            scenario_name=scenario,
            family=family,
            overrides=overrides_of(settings or []),
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
