"""Scores traffic with a registered model: a capture or a table in, a class and a probability for every flow out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, InputError
from robustidps.progress import Progress, silent
from robustidps.settings import exists, writable
from robustidps.traffic.capture import CAPTURE_SUFFIXES

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["CAPTURE_SUFFIXES", "Scores", "read_traffic", "score"]


@dataclass(frozen=True)
class Scores:
    """What a model says about N flows.

    probabilities: float32 [N, C]. alerts: int16 [N], index of the alerting class, 0 benign, -2 uncertain (an attack is
    likeliest, but below its threshold).
    """

    traffic: TrafficSet
    probabilities: npt.NDArray[np.float32]
    alerts: npt.NDArray[np.int16]
    classes: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Flows per outcome, largest first: class names, and `uncertain`."""
        names, numbers = np.unique(self.alerts, return_counts=True)
        named = {self._name(int(i)): int(n) for i, n in zip(names, numbers, strict=True)}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def _name(self, index: int) -> str:
        return "uncertain" if index < 0 else self.classes[index]

    def write(self, path: Path) -> Path:
        """Writes one row a flow (`time`, `source`, `verdict`, `class`, `probability`) as Parquet or, by suffix, CSV.

        Raises:
            InputError: another suffix. StorageError: full disk, read-only folder.
        """
        import pandas as pd

        if path.suffix not in (".csv", ".parquet"):
            raise InputError("is neither .csv nor .parquet", where=path, remedy="end its name in one of these")

        best = self.probabilities.argmax(1) if len(self.probabilities) else np.zeros(0, int)
        frame = pd.DataFrame(
            {
                "time": pd.to_datetime(self.traffic.time, unit="s", utc=True),
                "source": self.traffic.source.astype(str),
                "verdict": [self._name(int(i)) for i in self.alerts],
                "class": [self.classes[i] for i in best],
                "probability": self.probabilities[np.arange(len(best)), best],
            }
        )
        part = path.with_name(f"{path.name}.part")
        with writable(path):
            try:
                if path.suffix == ".csv":
                    frame.to_csv(part, index=False)
                else:
                    frame.to_parquet(part, index=False)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path


def read_traffic(path: Path, *, truncated: Any = "refuse", progress: Progress = silent) -> TrafficSet:
    """Traffic from a capture (through the flow extractor) or one of our Parquet files.

    Raises:
        CaptureError, DatasetError: what is wrong with the file.
    """
    from robustidps.traffic.trafficset import TrafficSet

    if not exists(path):
        raise DatasetError("no such file", where=path)
    if not path.is_file():
        raise DatasetError("is not a file", where=path, remedy="give one capture, or a Parquet file from `ingest`")
    if path.suffix == ".parquet":
        return TrafficSet.read(path)
    from robustidps.traffic.capture import ingest

    return ingest(path, truncated=truncated, progress=progress)


def score(bundle: Bundle, traffic: TrafficSet) -> Scores:
    """What `bundle` says about `traffic`.

    Raises:
        DatasetError: the traffic is of another schema than the model.
    """
    from robustidps.decisions import decide

    if traffic.schema.digest != bundle.schema.digest:
        raise DatasetError(
            f"is traffic of schema {traffic.schema.name}, the model's is {bundle.schema.name}",
            where=traffic.source[0] if len(traffic) else None,
            remedy="score it with a model of its own schema (robustidps models)",
        )
    probabilities = bundle.probabilities(traffic.features)
    alerts = decide(probabilities, bundle.metadata.thresholds, bundle.schema)
    return Scores(traffic, probabilities, alerts, bundle.schema.classes)
