"""A registered spiking version to Loihi: simulated, compared, sized; the report filed, and the alias asked for."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from robustidps.tasks.loihi import ask_for_alias, file_loihi_report, simulate_on_loihi

__all__ = ["export_loihi"]


@flow(name="export-loihi", persist_result=True, result_serializer="json", validate_parameters=True)
def export_loihi(
    name: str,
    version: str | None = None,
    rows: Annotated[int, Field(ge=1)] = 2000,
    on: str | None = None,
    calibrate_on: str | None = None,
    out: str | None = None,
    alias: bool = False,
    limit_s: Annotated[float, Field(gt=0)] = 1800.0,
) -> dict[str, Any]:
    """NIR -> quantise on training traffic -> Lava, floating and fixed point -> report -> MLflow (-> alias).

    Args:
        name: Registered model.
        version: A version, or production, staging or latest; default is the newest that is registered.
        rows: How many held-out flows are simulated.
        on: Labelled traffic (Parquet); default is what the version was held out from.
        calibrate_on: What the version was trained on (Parquet); default is where training has left it.
        out: Folder for the report; default is in the home folder.
        alias: Let the version take the alias loihi if the report meets all requirements.
        limit_s: Seconds after which a simulation is ended.

    Raises:
        RobustIDPSError: bad input, a network that fits no chip, no environment to simulate in; nothing is filed then.
    """
    simulated = simulate_on_loihi(name, version, rows, on, calibrate_on, out, limit_s)
    file_loihi_report(simulated)
    return simulated | {"alias": ask_for_alias(simulated) if alias else None}
