"""`robustidps registry`: its upkeep, and models that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustidps import console
from robustidps.cli._app import open_registry, registry_app
from robustidps.cli._options import Json, Name


@registry_app.command("repair")
def registry_repair(as_json: Json = False) -> None:
    """Bring MLflow's aliases and tags in line with the decisions, and finish what a killed run left."""
    with console.bars(not as_json):
        done = open_registry().repair()
    if as_json:
        console.emit_json(done)
        return
    for text in done or ["nothing to repair"]:
        console.line("registry", text)


@registry_app.command("prepare")
def registry_prepare(
    have_backup: Annotated[
        bool, typer.Option("--have-backup", help="MLflow's PostgreSQL is saved: its tables may be brought up to date")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make or bring up to date state store, MLflow's database and bucket; SQLite files are copied before."""
    from robustidps.registry.preparing import prepare

    done = prepare(open_registry(), have_backup=have_backup)
    if as_json:
        console.emit_json(done)
        return
    for text in done or ["all is up to date"]:
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

    registry = open_registry()
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
