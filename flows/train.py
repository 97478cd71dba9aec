"""The researchers' entry: family, data set and overrides in; a registered, judged version out."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from robustidps.flows.forms import DatasetName, FamilyName, RuleSetName
from robustidps.flows.steps import candidate, traffic_parts, trainings
from robustidps.judging import rule_set
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.prepare import dataset_config

__all__ = ["command_line", "train"]


@flow(name="train", persist_result=True, result_serializer="json", validate_parameters=True)
def train(
    family: FamilyName = "neural_ode",
    dataset: DatasetName = "simulated",
    overrides: dict[str, Any] | None = None,
    data_dir: str | None = None,
    schema_file: str | None = None,
    name: str | None = None,
    version: str | None = None,
    breaking: bool = False,
    seeds: Annotated[int, Field(ge=1, le=20)] = 1,
    split: Literal["temporal", "official", "captures", "shuffled"] | None = None,
    limit_rows: Annotated[int, Field(ge=1)] | None = None,
    hold_out: list[Annotated[str, Field(pattern=r"^(tool|service|day)=.+$", max_length=220)]] | None = None,
    promote_to: Literal["Staging", "Production"] | None = None,
    rules: RuleSetName | None = None,
    description: str = "",
) -> dict[str, Any]:
    """Traffic -> split, evade -> train -> bundle, parity gate -> evaluate -> drift -> page -> register (-> promote).

    Args:
        family: Model family, as `robustidps models --families` lists them.
        dataset: A data set known here (configs/training), or the whole path of a Parquet or CSV file of yours.
        overrides: Settings of the family (docs/families.md lists them), for example {"hidden": 96}.
        data_dir: Folder of a public data set's files.
        schema_file: Schema of a table of yours (docs/data.md).
        name: Registered model; default is the family, with the data set's suffix.
        version: Semantic version; default is the next minor one.
        breaking: Take the next major number.
        seeds: Train this many; the best on validation is registered.
        split: How held-out traffic is set apart; default is the data set's own way.
        limit_rows: Train on a random sample of this many rows.
        hold_out: Keep out of training, besides what the data set does: tool=NAME, service=NAME or day=YYYY-MM-DD.
        promote_to: Ask the rules for this stage afterwards.
        rules: Rule set in configs/promotion; default is the data set's.
        description: A sentence that is kept with the version.

    Raises:
        RobustIDPSError: bad input, or something that isn't there; nothing is registered then.
    """
    config = dataset_config(dataset)
    parameters = {k: v for k, v in locals().items() if k != "config"}
    HoldOut.parse(hold_out or [])
    rule_set(rules or config.rules)  # what can't be judged had better not be trained
    name = name or config.model_name(family)
    cut = traffic_parts(dataset, data_dir, schema_file, split, limit_rows, hold_out)
    make = trainings(family, overrides or {}, seeds, cut, name=name, dataset=dataset, description=description)
    return candidate(
        make,
        cut,
        name=name,
        version=version,
        breaking=breaking,
        dataset=dataset,
        kept_rules=rules or config.rules,
        promote_to=promote_to,
        rules=rules,
        command=command_line(parameters),
    )


def command_line(parameters: dict[str, Any]) -> str:
    """The command that repeats a training flow with these parameters."""
    words = ["robustidps", "train", str(parameters["family"])]
    plain = {"dataset": "--dataset", "data_dir": "--data-dir", "schema_file": "--schema", "seeds": "--seeds"}
    plain |= {
        "name": "--name",
        "split": "--split",
        "limit_rows": "--limit-rows",
        "rules": "--rules",
        "promote_to": "--promote-to",
    }
    for key, option in plain.items():
        if parameters.get(key) not in (None, "", 1) or key == "dataset":
            words += [option, str(parameters[key])]
    for word in parameters.get("hold_out") or ():
        words += ["--hold-out", word]
    for key, value in sorted((parameters.get("overrides") or {}).items()):
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)
