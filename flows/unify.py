"""Several registered versions in, one registered, judged version out that decides as their weighted mean."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from robustidps.flows.forms import DatasetName, RuleSetName
from robustidps.flows.steps import candidate, traffic_parts
from robustidps.judging import rule_set
from robustidps.registry.metadata import MAX_SPLIT
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.unifying import unify_members
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.prepare import dataset_config
from robustidps.unified import FAMILY, members_of

__all__ = ["unify"]


@flow(name="unify", persist_result=True, result_serializer="json", validate_parameters=True)
def unify(
    members: list[str],
    dataset: DatasetName = "simulated",
    data_dir: str | None = None,
    schema_file: str | None = None,
    name: str | None = None,
    version: str | None = None,
    breaking: bool = False,
    split: Literal["temporal", "official", "captures", "shuffled"] | None = None,
    hold_out: list[Annotated[str, Field(pattern=r"^(tool|service|day)=.+$", max_length=220)]] | None = None,
    promote_to: Literal["Staging", "Production"] | None = None,
    rules: RuleSetName | None = None,
    description: str = "",
) -> dict[str, Any]:
    """Members -> weights on validation -> one graph, parity gate -> evaluate -> drift -> page -> register (-> promote).

    Args:
        members: Registered versions, each NAME@VERSION; all trained on this data set with this split.
        dataset: A data set known here (configs/training), or the whole path of a Parquet or CSV file of yours.
        data_dir: Folder of a public data set's files.
        schema_file: Schema of a table of yours (docs/data.md).
        name: Registered model; default is `unified`, with the data set's suffix.
        version: Semantic version; default is the next minor one.
        breaking: Take the next major number.
        split: How held-out traffic is set apart; default is the data set's own way.
        hold_out: What the members' training was told to keep out: tool=NAME, service=NAME or day=YYYY-MM-DD.
        promote_to: Ask the rules for this stage afterwards.
        rules: Rule set in configs/promotion; default is the data set's.
        description: A sentence that is kept with the version.

    Raises:
        RobustIDPSError: bad input, or something that isn't there; nothing is registered then.
    """
    config = dataset_config(dataset)
    HoldOut.parse(hold_out or [])
    rule_set(rules or config.rules)
    found = members_of(ModelRegistry(settings=get_settings()), members)  # before anything slow: a wrong one ends here
    called = [f"{m.metadata.name}@{m.metadata.version}" for m in found]  # `production` may mean another one tomorrow
    name = name or config.model_name(FAMILY)
    cut = traffic_parts(dataset, data_dir, schema_file, split, None, hold_out)

    def make(number: str) -> list[dict[str, Any]]:
        bundle = unify_members(
            called,
            cut["train"],
            cut["validation"],
            name=name,
            version=number,
            dataset=dataset,
            split=cut["report"]["text"][:MAX_SPLIT],
            description=description,
        )
        return [bundle]

    options = {
        "--dataset": dataset,
        "--data-dir": data_dir,
        "--schema": schema_file,
        "--name": name,
        "--split": split,
        "--rules": rules,
        "--promote-to": promote_to,
    }
    words = [word for option, value in options.items() if value for word in (option, value)]
    words += [word for held in hold_out or () for word in ("--hold-out", held)]
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
        command=shlex.join(["robustidps", "unify", *called, *words]),
    )
