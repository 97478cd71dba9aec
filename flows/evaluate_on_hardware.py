"""A registered version with its circuit run on hardware or on a simulated device, beside itself without noise."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from robustidps.evaluation.hardware import DEFAULT_ROWS
from robustidps.tasks.hardware import run_on_hardware

__all__ = ["evaluate_on_hardware"]


@flow(name="evaluate-on-hardware", persist_result=True, result_serializer="json", validate_parameters=True)
def evaluate_on_hardware(
    name: str,
    version: str = "production",
    backend: str | None = None,
    device: str | None = None,
    rows: Annotated[int, Field(ge=1)] = DEFAULT_ROWS,
    on: str | None = None,
    shots: Annotated[int, Field(ge=1)] | None = None,
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Rows -> circuit on the device -> figures beside the noiseless ones -> MLflow.

    Args:
        name: Registered model of a family with a circuit.
        version: A version, or production, staging, latest.
        backend: One of IBM's by name; fake_manila and its like are simulated on this machine.
        device: A PennyLane device; default is what the version's settings name.
        rows: How many labelled rows are run, drawn uniformly.
        on: Labelled traffic (Parquet); default is what the version was held out from.
        shots: Measurements for each row; default is exact, or the backend's own number.
        seed: Of the draw of rows, and of shots where they are simulated.
        options: Of the device, by name.

    Raises:
        RobustIDPSError: bad input, no such device, no account, or a job that failed; nothing is logged then.
    """
    target = {"backend": backend, "device": device, "shots": shots, "seed": seed, "options": options or {}}
    result: dict[str, Any] = run_on_hardware(name, version, target, rows, on)
    return result
