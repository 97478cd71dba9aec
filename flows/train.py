"""The researchers' entry: family, data set and overrides in; a registered, judged version out."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from robustidps.errors import RobustIDPSError
from robustidps.tasks.evaluation import evaluate_model, report_drift
from robustidps.tasks.registry import promote_version, register_version, release_version, reserve_version
from robustidps.tasks.traffic import load_traffic, split_traffic, usable
from robustidps.tasks.training import train_model
from robustidps.traffic.prepare import dataset_config

__all__ = ["train"]


@flow(name="train", persist_result=True, result_serializer="json", validate_parameters=True)
def train(
    family: Annotated[
        str, Field(description="model family, as `robustidps models --families` lists them")
    ] = "neural_ode",
    dataset: Annotated[
        str, Field(description="a name in configs/datasets, or the path of a Parquet or CSV file")
    ] = "simulated",
    data_dir: Annotated[str | None, Field(description="folder of a public data set's files")] = None,
    schema_file: Annotated[str | None, Field(description="schema of a table of yours (docs/data.md)")] = None,
    overrides: Annotated[dict[str, Any] | None, Field(description="settings of the family, e.g. hidden: 96")] = None,
    name: Annotated[
        str | None, Field(description="registered model; default: the family, with the data set's suffix")
    ] = None,
    version: Annotated[str | None, Field(description="semantic version; default: the next minor one")] = None,
    breaking: Annotated[bool, Field(description="take the next major number")] = False,
    seeds: Annotated[int, Field(ge=1, le=20, description="train this many; the best on validation is registered")] = 1,
    split: Annotated[str | None, Field(description="temporal, official or shuffled; default: the data set's")] = None,
    limit_rows: Annotated[int | None, Field(ge=1, description="train on a random sample of this many rows")] = None,
    promote_to: Annotated[
        Literal["Staging", "Production"] | None, Field(description="ask the rules for this stage")
    ] = None,
    rules: Annotated[str | None, Field(description="rule set in configs/promotion; default: the data set's")] = None,
    description: Annotated[str, Field(description="a sentence that is kept with the version")] = "",
) -> dict[str, Any]:
    """Traffic -> split -> train -> bundle and parity gate -> evaluate -> drift -> register (-> promote).

    Raises:
        RobustIDPSError: bad input, or something that isn't there; nothing is registered then.
    """
    config = dataset_config(dataset)
    parameters = {k: v for k, v in locals().items() if k != "config"}
    name = name or (f"{family}-{config.suffix}" if config.suffix else family)
    parts = load_traffic(dataset, data_dir, schema_file)
    if not usable(parts):
        parts = load_traffic.with_options(refresh_cache=True)(dataset, data_dir, schema_file)
    cut = split_traffic(parts, dataset, split, 0, limit_rows)
    report = cut["report"]
    version = reserve_version(name, version, breaking)
    try:
        overrides = overrides or {}
        first = int(overrides.get("seed", 0))
        trained = [
            train_model(
                family,
                overrides | {"seed": seed},
                cut["train"],
                cut["validation"],
                name=name,
                version=version,
                dataset=dataset,
                split=report["description"],
                description=description,
            )
            for seed in range(first, first + seeds)
        ]
        evaluated = [evaluate_model(b, cut["test"], dataset, timing=i == 0) for i, b in enumerate(trained)]
        best = max(range(seeds), key=lambda i: trained[i]["metrics"].get("val_macro_f1", 0.0))
        if best:
            evaluated[best] = evaluate_model(trained[best], cut["test"], dataset)
        drift = report_drift(trained[best], cut["train"], cut["test"])
        registered = register_version(
            name,
            version,
            trained[best],
            evaluated[best],
            drift,
            cut["test"],
            dataset=dataset,
            rules=rules or config.rules,
            command=command_line(parameters),
        )
    except (RobustIDPSError, KeyboardInterrupt):
        release_version(name, version)
        raise
    outcomes = promote_version(name, version, promote_to, rules) if promote_to else []
    return registered | {
        "dataset": dataset,
        "split": report,
        "evaluation": evaluated[best]["evaluation"],
        "seeds": [{"seed": first + i, "metrics": e["evaluation"]["headline"]} for i, e in enumerate(evaluated)],
        "drift": drift["summary"],
        "files": evaluated[best]["files"] + drift["files"],
        "promotion": outcomes,
    }


def command_line(parameters: dict[str, Any]) -> str:
    """The command that repeats a training flow with these parameters."""
    words = ["robustidps", "train", str(parameters["family"])]
    plain = {"dataset": "--dataset", "data_dir": "--data-dir", "schema_file": "--schema", "seeds": "--seeds"}
    plain |= {"split": "--split", "limit_rows": "--limit-rows", "rules": "--rules", "promote_to": "--promote-to"}
    for key, option in plain.items():
        if parameters.get(key) not in (None, "", 1) or key == "dataset":
            words += [option, str(parameters[key])]
    for key, value in sorted((parameters.get("overrides") or {}).items()):
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)
