"""Weeks of toy traffic with a break in them, and a study of it that takes a moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustidps.evaluation.ageing import AgeingSettings, LoopSettings
from robustidps.testing.linear import Linear, LinearSettings
from robustidps.testing.traffic import toy_traffic
from robustidps.traffic.trafficset import TrafficSet

BREAK = 16
"""The day from which on floods look as scans did, and scans otherwise than before."""

DAY = 86_400


def weeks(days: int = 30, rows: int = 80, breaks: int | None = BREAK) -> TrafficSet:
    """Toy traffic of so many days; each campaign belongs to one day."""
    parts = []
    for day in range(days):
        one = toy_traffic(rows, seed=day, missing=0.0)
        features = one.features.copy()
        if breaks is not None and day >= breaks:
            attack = one.labels > 0
            features[attack, 3] += 12
            features[attack, 4] = 1 - features[attack, 4]
            features[attack, 0] = 1.0
        campaign = np.array([f"{c}/{day}" for c in one.campaign], object)
        parts.append(replace(one, features=features, time=one.time + day * DAY, campaign=campaign))
    return TrafficSet.concat(parts)


@pytest.fixture(scope="session")
def traffic() -> TrafficSet:
    return weeks()


@pytest.fixture
def settings() -> AgeingSettings:
    loop = LoopSettings(
        window_days=2, psi=0.5, windows=3, odd_windows=2, reference_days=5,
        decline=2.0, rest_days=2, exam_days=10, exam_share=0.5,
    )  # fmt: skip
    return AgeingSettings(
        start_days=6, start_labels=200, delay_days=2, slot_days=4, labels_per_day=30, resamples=100, loop=loop
    )


@pytest.fixture
def family() -> tuple[Linear, LinearSettings]:
    return Linear(), LinearSettings(epochs=30)


@pytest.fixture
def rules(home):
    """Writes a rule set named `own` with these rules, and asks for little evidence."""

    def write(*asked: str) -> str:
        folder = home / "configs" / "promotion"
        folder.mkdir(parents=True, exist_ok=True)
        left_out = (
            "threshold", "recall_floor", "false_positive_ceiling", "latency", "stability", "schema_compatible",
            "rollback_available", "disjoint_in_time",
        )  # fmt: skip
        lines = ["name: own", "evidence: {min_rows: 40, min_blocks: 5, disjoint_in_time: false}", "rules:"]
        lines += [f"  - {rule}" for rule in asked]
        lines += ["left_out:", *(f"  {kind}: not asked in this test" for kind in left_out)]
        (folder / "own.yaml").write_text("\n".join(lines) + "\n")
        return "own"

    return write
