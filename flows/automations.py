"""What happens by itself on a Prefect server: an alarm's event starts the deployment `retrain`.

An event is a hint: `retrain` looks up the alarm in the signed ledger, and how often a model is retrained is checked
there, so a forged or repeated event trains nothing.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

from robustidps.tasks.monitoring import ALARM

__all__ = ["RETRAIN", "ensure_automations"]

RETRAIN = "retrain after a drift alarm"


def ensure_automations(deployment_id: UUID | str) -> str:
    """Creates the automation, or brings it up to date; gives its id. Needs a Prefect server.

    Args:
        deployment_id: of the deployment of `robustidps.flows.retrain.retrain`.
    """
    from prefect.automations import Automation
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import EventTrigger, Posture

    wanted = Automation(
        name=RETRAIN,
        description="Nothing is promoted because of drift alone: the candidate goes through the rules.",
        trigger=EventTrigger(
            expect={ALARM},
            match={"prefect.resource.id": "robustidps.model.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=UUID(str(deployment_id)),
                parameters={"model": _of_event("model"), "window": _of_event("window")},
            )
        ],
    )

    async def ensure() -> str:
        try:
            known = await Automation.aread(name=RETRAIN)
        except ValueError:
            return str((await wanted.acreate()).id)
        known.description, known.trigger, known.actions = wanted.description, wanted.trigger, wanted.actions
        await known.aupdate()
        return str(known.id)

    return asyncio.run(ensure())


def _of_event(key: str) -> dict[str, Any]:
    return {"__prefect_kind": "jinja", "template": f"{{{{ event.payload.{key} }}}}"}
