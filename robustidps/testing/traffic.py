"""A schema with every kind of feature and rule, and small traffic under it, for tests of families and bundles."""

from __future__ import annotations

import numpy as np

from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["TOY", "toy_traffic"]

TOY = TrafficSchema(
    name="toy",
    features=(
        Feature(name="duration", unit="ms", transform="log", missing="zero"),
        Feature(name="bytes", unit="B", kind="count", transform="log", missing="median"),
        Feature(
            name="protocol", kind="categorical", transform="onehot", vocabulary=("tcp", "udp", "icmp"), missing="zero"
        ),
        Feature(name="skew", missing="median"),
        Feature(name="syn", kind="flag"),
        Feature(name="error_rate", kind="ratio", missing="refuse"),
        Feature(name="service", kind="categorical", transform="onehot", vocabulary=("http", "ssh"), missing="median"),
        Feature(name="always_seven"),
    ),
    classes=("Benign", "Flood", "Scan", "Never-Seen"),
)
"""8 features of all kinds, transforms and missing-value rules; 4 classes, the last of which has no row."""


def toy_traffic(rows: int = 600, seed: int = 0, *, missing: float = 0.02) -> TrafficSet:
    """Labelled flows over one day, half of them benign, in campaigns; a share `missing` is NaN where that is allowed.

    Deterministic by seed; classes are learnable and overlap a little.
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, rows, p=[0.5, 0.3, 0.2]).astype(np.int16)
    flood, scan = labels == 1, labels == 2
    x = np.column_stack(
        [
            rng.lognormal(5, 2, rows) * np.where(scan, 0.01, 1),
            np.floor(rng.lognormal(7, 2, rows) * np.where(flood, 50, 1)),
            np.where(scan, 1, rng.integers(0, 4, rows)),
            rng.normal(0, 3, rows) - 2 * flood,
            (rng.random(rows) < np.where(scan, 0.95, 0.3)),
            np.clip(rng.beta(2, 5, rows) + 0.3 * scan, 0, 1),
            rng.integers(0, 3, rows),
            np.full(rows, 7.0),
        ]
    ).astype(np.float32)
    allowed = np.array([f.missing != "refuse" for f in TOY.features])
    x[(rng.random(x.shape) < missing) & allowed] = np.nan
    time = np.sort(rng.uniform(0, 86_400, rows)) + 1_767_571_200  # 2026-01-05 UTC
    names = np.array(["benign", "flood", "scan"], dtype=object)
    campaign = np.array([f"{names[c]}-{int(t // 7200) % 12}" for c, t in zip(labels, time, strict=True)], dtype=object)
    return TrafficSet.build(
        TOY, x, labels, time=time, source="toy", campaign=campaign, tool=names[labels], provenance={"toy": seed}
    )
