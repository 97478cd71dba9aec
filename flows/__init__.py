"""Prefect flows: wiring only. A flow strings tasks together; each task calls one library function.

    train         traffic -> split -> train -> bundle -> evaluate -> drift -> register (-> promote)
    train_all     several families side by side, each as `train` does it -> compare
    unify         registered versions -> weights -> one graph -> evaluate -> drift -> register (-> promote)
    promote       judge a registered version and move it, or record the refusal; waits where the rules ask for a person
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
from robustidps.system.record import address_of
from robustidps.system.services import prefect_environment

__all__ = ["embedded"]


def embedded(settings: Settings) -> None:
    """Points Prefect at this home, unless the environment already says otherwise: at the server of `robustidps up`
    while that runs, so that its page shows what the command line starts; else there is no server to start."""
    defaults = prefect_environment(settings)
    server = address_of(settings, "prefect")
    if server:
        defaults["PREFECT_API_URL"] = f"{server}/api"
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
