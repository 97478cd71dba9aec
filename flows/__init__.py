"""Prefect flows: wiring only. A flow strings tasks together; each task calls one library function.

    train         traffic -> split -> train -> bundle -> evaluate -> drift -> register (-> promote)
    train_all     several families side by side, each as `train` does it -> compare
    unify         registered versions -> weights -> one graph -> evaluate -> drift -> register (-> promote)
    promote       judge a registered version and move it, or record the refusal
    evaluate_on_hardware  a version's circuit on a device, beside itself without noise
    export_loihi  a registered spiking version -> quantised -> simulated -> report (-> alias)
    monitor       traffic in production -> figures -> record, alarm -> pages -> event
    retrain       after an alarm: labels -> train -> bundle -> evaluate -> register -> ask the rules
    demo          the main job, end to end, on simulated traffic

Import order matters: Prefect reads its environment when it is imported, so `embedded()` comes first.
"""

from __future__ import annotations

import os

from robustidps.settings import Settings

__all__ = ["embedded"]


def embedded(settings: Settings) -> None:
    """Points Prefect at this home, with no server to start, unless the environment already says otherwise.

    Console output is the command line's; flow and task logs still go to Prefect's database. Results are JSON, never
    pickles. No telemetry leaves the machine.
    """
    defaults = {
        "PREFECT_HOME": str(settings.folder("prefect")),
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.folder("prefect", "results")),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if settings.debug else "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
