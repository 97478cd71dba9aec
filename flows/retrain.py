"""After an alarm: labels that came back, a candidate by training's own path, and the rules. Started by an automation
(`automations.py`) or by hand; what may be trained on, and how often, is decided here and not by who asks."""

from __future__ import annotations

import shlex
from typing import Any

from prefect import flow, get_run_logger

from robustidps.flows.steps import candidate, trainings
from robustidps.judging import rule_set
from robustidps.settings import check_name
from robustidps.tasks.monitoring import gather_labels

__all__ = ["retrain"]

DATASET = "labels"
"""What held-out traffic of a retraining is called in evaluations."""


@flow(name="retrain", persist_result=True, result_serializer="json", validate_parameters=True)
def retrain(model: str, window: str) -> dict[str, Any]:
    """Labels -> train -> bundle, parity gate -> evaluate -> drift -> page -> register -> ask the rules.

    Args:
        model: Registered model.
        window: The window whose alarm is the reason; `robustidps drift list MODEL` names them.

    Returns:
        `trained`: whether a candidate was; `why` not; and what `train` gives.

    Raises:
        RefusedError: the ledger has no alarm of this window.
        RobustIDPSError: labels that can't be read; a training that failed. Nothing is registered then.
    """
    check_name(model)
    gathered = gather_labels(model, window)
    if not gathered["go"]:
        get_run_logger().warning("%s is not retrained: %s", model, gathered["why"])
        return {"trained": False, "why": gathered["why"]}
    rule_set(gathered["rules"])
    make = trainings(
        gathered["family"],
        gathered["overrides"],
        1,
        gathered["cut"],
        name=model,
        dataset=DATASET,
        description=f"retrained after the alarm of window {window}",
    )
    made = candidate(
        make,
        gathered["cut"],
        name=model,
        version=None,
        breaking=False,
        dataset=DATASET,
        kept_rules=gathered["rules"],
        promote_to=gathered["promote_to"],
        rules=None,
        command=shlex.join(["robustidps", "retrain", model, window]),
    )
    return {"trained": True, "why": "", "facts": gathered["facts"]} | made
