"""Two models on the same recent traffic that nobody labelled: how much each alerts, where they differ, what has moved.

Without labels it can't be said which of two models is right. What can be said is whether one behaves like the other,
on traffic like that it was trained on. The rules `alert_volume`, `disagreement` and `drift_ceiling` ask for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.decisions import NEVER, decide
from robustidps.errors import BundleError, DatasetError, SchemaError
from robustidps.evaluation.bootstrap import fold, interval
from robustidps.evaluation.drift import DriftSettings
from robustidps.evaluation.reference import fitting_profile
from robustidps.evaluation.report import Unlabelled
from robustidps.evaluation.timing import measure
from robustidps.monitoring.figures import RESAMPLES, blocks, columns_moved
from robustidps.monitoring.window import Range, Window, collect, incoming
from robustidps.progress import Progress, silent
from robustidps.settings import Settings
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.traffic.schema import TrafficSchema

__all__ = ["RECENT", "Widened", "compare_unlabelled", "moved", "recent_traffic", "widened"]

RECENT = 50_000
"""How many of the newest flows are looked at."""


class Widened:
    """A model as one of a schema with more classes, which it never gives: their probability is 0, their alert never."""

    def __init__(self, bundle: Bundle, schema: TrafficSchema) -> None:
        self.bundle, self.schema, self.digest = bundle, schema, bundle.digest
        more = dict.fromkeys(schema.classes[bundle.schema.output_dim :], NEVER)
        self.metadata = bundle.metadata.model_copy(update={"thresholds": bundle.metadata.thresholds | more})

    def probabilities(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Raw features [N, F] to [N, C] of the wider schema."""
        p = self.bundle.probabilities(x)
        return np.pad(p, ((0, 0), (0, self.schema.output_dim - p.shape[1])))


def widened(bundle: Bundle, schema: TrafficSchema) -> Bundle | Widened | None:
    """`bundle` as a model of `schema`, where that has the same features and the same classes first; else None."""
    if bundle.schema.digest == schema.digest:
        return bundle
    return None if schema.compatible_with(bundle.schema, allow_more_classes=True) else Widened(bundle, schema)


def recent_traffic(
    settings: Settings,
    name: str,
    schema: TrafficSchema,
    given: Path | None = None,
    *,
    rows: int = RECENT,
    progress: Progress = silent,
) -> TrafficSet | None:
    """The newest flows that came in for a model, without their labels; None where none came in.

    Args:
        given: a capture, a Parquet file or a folder; default: HOME/incoming/NAME, else HOME/incoming. In that folder,
            which models share, files of another schema are passed over.
        rows: how many at most: the newest by time, or the last ones of the last files where flows have no time.

    Raises:
        DatasetError, SchemaError, CaptureError: what is wrong with a file.
    """
    where = given or incoming(settings.home, name)
    if where is None:
        return None
    shared = given is None and where.name != name
    parts: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]] = []
    cut, timed = None, None
    for path in reversed(collect(where, folder=settings.folder("traffic"), progress=progress)):
        try:
            for chunk in Window((path,), schema, Range(since=cut)).chunks():
                known = bool(np.isfinite(chunk.time).all())
                if timed not in (None, known):
                    raise DatasetError("some flows have a time and some have none", where=where)
                timed = known
                parts = [_newest([*parts, (chunk.features, chunk.time)], rows, timed)]
        except SchemaError:
            if shared:
                continue
            raise
        if parts and len(parts[0][1]) >= rows:
            if not timed:
                break
            cut = float(parts[0][1].min())  # what is older in the files before isn't even read
    if not parts:
        return None
    features, time = parts[0]
    order = np.argsort(time, kind="stable")
    return TrafficSet.build(schema, features[order], time=time[order], provenance={"recent": str(where)})


def _newest(
    parts: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]], rows: int, timed: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    features, time = (np.concatenate([part[i] for part in parts]) for i in range(2))
    if len(time) <= rows:
        return features, time
    kept = np.argpartition(time, len(time) - rows)[-rows:] if timed else np.arange(len(time) - rows, len(time))
    return features[kept], time[kept]


def moved(bundle: Any, features: npt.NDArray[np.float32]) -> list[str] | None:
    """Columns of raw `features` [N, F] that have moved from what the bundle was trained on, beyond what chance gives.

    Threshold and least number of rows are those of `configs/drift.yaml`; None where either side has fewer rows.

    Raises:
        BundleError: the bundle's reference is malformed, or of another schema.
    """
    settings, where = DriftSettings.load(), f"{bundle.metadata.name} {bundle.metadata.version}: reference.json"
    profile = fitting_profile(bundle.reference, bundle.schema, where)
    if len(profile.features) != features.shape[1]:
        raise BundleError("is of another schema than the traffic", where=where)
    if min(profile.rows, len(features)) < settings.min_rows:
        return None
    return columns_moved(profile, features, settings.windows.psi)


def compare_unlabelled(
    bundle: Bundle,
    champion: Bundle | Widened | None,
    recent: TrafficSet,
    *,
    timing: Sequence[int] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Unlabelled:
    """What can be told of a bundle on traffic without labels, beside the champion on the same flows.

    Args:
        recent: traffic of the bundle's schema; its labels are not looked at.
        champion: of the same schema (`widened`); None where there is none to compare with.
        timing: batch sizes to time the bundle at.

    Raises:
        SchemaError: traffic of another schema, or a value that may not be there. DatasetError: no flow.
        BundleError: the bundle's reference is malformed.
    """
    if recent.schema.digest != bundle.schema.digest:
        raise SchemaError(f"the model's schema is {bundle.schema.name}, the traffic's {recent.schema.name}")
    if not len(recent):
        raise DatasetError("no flow is there", where="recent traffic")
    said = []
    models: list[Bundle | Widened] = [bundle] if champion is None else [bundle, champion]
    for model in models:
        p = model.probabilities(recent.features)
        said.append((p.argmax(axis=1), decide(p, model.metadata.thresholds, model.schema) > 0))
    (mine, alerts), (theirs, their_alerts) = said[0], said[-1]
    grouped = blocks(recent.time, np.full(len(recent), -1, np.int64))
    folded = fold([alerts, their_alerts, mine != theirs], grouped)
    draws, totals = folded.resample(resamples, seed), folded.totals

    def share(column: int) -> Any:
        these = folded.patterns[:, column] == 1
        values = [counts[:, these].sum(axis=1) / counts.sum(axis=1) for counts in (totals, draws)]
        return interval(float(values[0][0]), values[1], grouped.n)

    changed = moved(bundle, recent.features)
    timings = measure(bundle, recent.features, batches=timing) if timing else []
    figures: dict[str, float | None] = {}
    if timings:
        figures = {"latency_p50_ms": timings[0].p50_ms, "latency_p99_ms": timings[0].p99_ms}
        figures["throughput_rows_per_second"] = max(t.rows_per_second for t in timings)
    return Unlabelled(
        rows=len(recent),
        time_from=float(recent.time.min()) if recent.has_time else None,
        time_to=float(recent.time.max()) if recent.has_time else None,
        data_digest=recent.digest,
        alert_share=share(0),
        champion_alert_share=share(1) if champion is not None else None,
        disagreement=share(2) if champion is not None else None,
        drift_share=None if changed is None else len(changed) / recent.schema.input_dim,
        moved=changed or [],
        figures=figures,
        blocks=grouped.kind,
        n_blocks=grouped.n,
    )
