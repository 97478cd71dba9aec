"""`evaluate`: one bundle on traffic nobody trained on; `paired`: two bundles on the very same rows.

Rows are scored once. Each then becomes a pattern of small numbers (true class, predicted class, alert or not, how deep
it lies among the benign scores, tool known or not); figures are ratios of pattern counts, their intervals come from
`robustidps.evaluation.bootstrap`. What can't be known on the traffic at hand (no time, too few rows) is None with a
sentence in `notes`. Every name is defined in `robustidps.evaluation.metrics.METRICS` and `docs/evaluation.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, SchemaError
from robustidps.evaluation import metrics as m
from robustidps.evaluation.bootstrap import Blocks, Folded, blocks_of, fold, interval
from robustidps.evaluation.evasion import under_evasion
from robustidps.evaluation.report import ClassFigures, Evaluation, Interval, PairedDifference
from robustidps.evaluation.timing import BATCHES, measure
from robustidps.progress import Progress, silent
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["FLOWS_PER_DAY", "Predictions", "evaluate", "paired"]

Floats = npt.NDArray[np.float64]
Ratio = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
"""Which patterns count in a ratio's numerator, and which in its denominator; bool [U] each."""

FLOWS_PER_DAY = 1_000_000
MIN_WINDOWS, MAX_WINDOWS, MIN_ROWS_PER_WINDOW = 5, 10, 50
_NO_ALERT, _ALERT, _UNCERTAIN = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about the N rows of a traffic set, in order, unlabelled rows included.

    probabilities: float32 [N, C]. alerts: int16 [N], the class alerted on, 0 for none, `decisions.UNCERTAIN` (-2).
    """

    probabilities: npt.NDArray[np.float32]
    alerts: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.alerts)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Most probable class, [N]."""
        return self.probabilities.argmax(axis=1)


def evaluate(
    bundle: Any,
    held_out: TrafficSet,
    *,
    dataset: str,
    evaded: TrafficSet | None = None,
    resamples: int = 1000,
    seed: int = 0,
    timing: bool | Sequence[int] = True,
    seen_tools: Iterable[str] | None = None,
    seen_services: Iterable[str] | None = None,
    flows_per_day: float = FLOWS_PER_DAY,
    progress: Progress = silent,
) -> tuple[Evaluation, Predictions]:
    """Scores `held_out` with `bundle` and works out every figure.

    Args:
        bundle: has `probabilities(x)`, `metadata` (name, version, thresholds, training), `schema` and `digest`.
        held_out: traffic disjoint from training; unlabelled rows are scored and left out of the figures.
        dataset: its name, for the record.
        evaded: the held-out attacks altered to evade (`robustidps.traffic.evasion`); gives recall_under_evasion.
        resamples: bootstrap resamples; equal `seed` gives equal intervals.
        timing: measure latency and throughput too (about three seconds); or only at these batch sizes.
        seen_tools: attack tools (`TrafficSet.tool`) that were in training; gives recall on seen and unseen ones apart.
            Default: those that the bundle's metadata names.
        seen_services: the same for benign services; gives false positives on seen and unseen ones apart.
        flows_per_day: benign flows a day that `false_alerts_per_day` is stated for.

    Raises:
        SchemaError: the traffic's schema is not the bundle's, or what the bundle gave isn't probabilities.
        DatasetError: no labelled row.
    """
    from robustidps.decisions import decide

    schema: TrafficSchema = bundle.schema
    if held_out.schema.digest != schema.digest:
        raise SchemaError(f"the model's schema is {schema.name}, the traffic's {held_out.schema.name}", where=dataset)
    known = held_out.labelled
    if not known.any():
        raise DatasetError("no row has a label", where=dataset, remedy="evaluate on labelled traffic")
    progress("scoring", 0, len(held_out), unit="rows")
    probabilities = np.asarray(bundle.probabilities(held_out.features))
    if probabilities.shape != (len(held_out), schema.output_dim) or not np.isfinite(probabilities).all():
        raise SchemaError(
            f"gave an array of shape {probabilities.shape} or values that aren't finite", where=bundle.metadata.name
        )
    predictions = Predictions(probabilities, decide(probabilities, bundle.metadata.thresholds, schema))
    progress("scoring", len(held_out), len(held_out), unit="rows")

    rows = held_out.select(known)
    blocks = blocks_of(rows)
    notes = list(blocks.notes)
    if (training := bundle.metadata.training) is not None:
        seen_tools = seen_tools if seen_tools is not None else training.tools or None
        seen_services = seen_services if seen_services is not None else training.services or None
    if not known.all():
        notes.append(f"{int((~known).sum())} unlabelled rows were left out")
    p, alerts = probabilities[known], predictions.alerts[known]
    headline, per_class_recall, confusion, alert_recalls = _headline(
        rows,
        p,
        alerts,
        blocks,
        _seen(rows, seen_tools, seen_services, notes),
        flows_per_day,
        resamples,
        seed,
        notes,
        progress,
    )
    windows, figures = _windows(rows, p.argmax(axis=1), blocks, resamples, seed, notes)
    figures["expected_calibration_error"] = m.reliability(p, rows.labels).error
    figures["log_loss"] = m.log_loss(p, rows.labels)
    evasion = None
    if evaded is not None:
        evasion = under_evasion(bundle, evaded, resamples=resamples, seed=seed)
        headline |= {"recall_under_evasion": evasion.detection, "alert_recall_under_evasion": evasion.alert_recall}
    else:
        notes.append("recall under evasion was not measured")
    batches = BATCHES if timing is True else tuple(timing or ())
    timings = measure(bundle, held_out.features, batches=batches, progress=progress) if batches else []
    if timings:
        figures["latency_p50_ms"], figures["latency_p99_ms"] = timings[0].p50_ms, timings[0].p99_ms
        figures["throughput_rows_per_second"] = max(t.rows_per_second for t in timings)
    else:
        notes.append("latency and throughput were not measured")
    precision, _, f1, support = m.per_class(confusion)
    classes = {
        name: ClassFigures(
            precision=_known(precision[c]),
            recall=per_class_recall[c],
            f1=_known(f1[c]),
            support=int(support[c]),
            alert_recall=_known(alert_recalls[c]),
        )
        for c, name in enumerate(schema.classes)
    }
    evaluation = Evaluation(
        model=bundle.metadata.name,
        version=bundle.metadata.version,
        bundle_digest=bundle.digest,
        dataset=dataset,
        data_digest=held_out.digest,
        rows=len(rows),
        time_from=float(rows.time.min()) if rows.has_time else None,
        time_to=float(rows.time.max()) if rows.has_time else None,
        classes=classes,
        confusion=confusion.astype(int).tolist(),
        headline=headline,
        figures=figures,
        timings=timings,
        windows=windows,
        evasion=evasion,
        blocks=blocks.kind,
        n_blocks=blocks.n,
        resamples=resamples,
        seed=seed,
        notes=notes,
    )
    return evaluation, predictions


def paired(
    candidate: Predictions,
    champion: Predictions,
    held_out: TrafficSet,
    schema: TrafficSchema | None = None,
    metrics: Iterable[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[PairedDifference]:
    """Candidate minus champion, with intervals from resampling the same blocks for both.

    Args:
        candidate, champion: what each says about all rows of `held_out`.
        schema: the schema of both; default: the traffic's.
        metrics: names to compare; default: accuracy, macro_f1, false_positive_rate, detection_rate,
            alert_false_positive_rate, alert_recall and recall.CLASS of every class with rows.

    Returns:
        One entry a metric that both have a figure for; a metric undefined on these rows has none.

    Raises:
        SchemaError: predictions don't fit the rows, or each other, or a metric can't be compared this way.
        DatasetError: no labelled row.
    """
    schema = schema or held_out.schema
    for who in (candidate, champion):
        if who.probabilities.shape != (len(held_out), schema.output_dim) or len(who) != len(held_out):
            raise SchemaError(
                f"predictions of shape {who.probabilities.shape} for {len(held_out)} rows, {schema.output_dim} classes"
            )
    known = held_out.labelled
    if not known.any():
        raise DatasetError("no row has a label", remedy="compare on labelled traffic")
    rows = held_out.select(known)
    columns: list[npt.ArrayLike] = [rows.labels]
    for who in (candidate, champion):
        columns += [who.predicted[known], _alert_code(who.alerts[known])]
    folded = fold(columns, blocks_of(rows))
    draws, totals = folded.resample(resamples, seed), folded.totals
    true = folded.patterns[:, 0]
    results = []
    sides = []
    for predicted, alert in (folded.patterns[:, 1:3].T, folded.patterns[:, 3:5].T):
        ratios = _ratios(true, predicted, alert, schema)
        sides.append((ratios, predicted))
    names = list(metrics) if metrics is not None else [*sides[0][0], "macro_f1"]
    for name in names:
        if name != "macro_f1" and name not in sides[0][0]:
            raise SchemaError(f"'{name}' can't be compared row by row", remedy=f"use one of {', '.join(sides[0][0])}")
        figures = [
            (_macro_f1(w, true, predicted, schema) if name == "macro_f1" else _share(w, ratios[name]))
            for ratios, predicted in sides
            for w in (totals, draws)
        ]
        mine, my_draws, theirs, their_draws = figures[0][0], figures[1], figures[2][0], figures[3]
        if not (np.isfinite(mine) and np.isfinite(theirs)):
            continue
        relevant = np.ones_like(true, bool) if name == "macro_f1" else sides[0][0][name][1]
        n_blocks = folded.blocks_with(relevant)
        gap = my_draws - their_draws
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(their_draws > 0, gap / their_draws, np.nan)
            relative_value = (mine - theirs) / theirs if theirs > 0 else np.nan
        error, error_draws = (1 - theirs, 1 - their_draws) if _higher_is_better(name) else (-theirs, -their_draws)
        with np.errstate(divide="ignore", invalid="ignore"):
            # The champion's error minus the candidate's is the gap, or minus the gap, over the error likewise.
            reduction = np.where(error_draws != 0, gap / error_draws, np.nan)
            reduction_value = (mine - theirs) / error if error != 0 else np.nan
        results.append(
            PairedDifference(
                metric=name,
                candidate=float(mine),
                champion=float(theirs),
                difference=interval(mine - theirs, gap, n_blocks),
                relative=interval(relative_value, relative, n_blocks),
                error_reduction=interval(reduction_value, reduction, n_blocks),
            )
        )
    return results


def _higher_is_better(name: str) -> bool:
    metric = m.describe(name)
    return metric is None or metric.better == "higher"


def _headline(
    rows: TrafficSet,
    p: npt.NDArray[np.float32],
    alerts: npt.NDArray[np.int16],
    blocks: Blocks,
    seen: npt.NDArray[np.int64],
    flows_per_day: float,
    resamples: int,
    seed: int,
    notes: list[str],
    progress: Progress,
) -> tuple[dict[str, Interval], list[Interval], Floats, Floats]:
    """Figures with intervals, recall per class, the confusion matrix [C, C], and alert recall per class [C]."""
    benign = rows.labels == 0
    n_benign = int(benign.sum())
    # 1 - p_benign ranks as -p_benign does, and the latter loses no digits near 1.
    depth, resolved = _depth(-p[:, 0].astype(np.float64), benign, notes)
    folded = fold([rows.labels, p.argmax(axis=1), _alert_code(alerts), depth, seen], blocks)
    true, predicted, alert, depths, tool = folded.patterns.T
    progress("resampling", 0, resamples, unit="resamples")
    draws, totals = folded.resample(resamples, seed), folded.totals
    progress("resampling", resamples, resamples, unit="resamples")

    attack = true > 0
    ratios = _ratios(true, predicted, alert, rows.schema)
    for level, point in enumerate(m.FPR_POINTS, start=1):
        ratios[f"recall_at_fpr_{point}"] = (attack & (depths >= level), attack)
    for code, word in ((1, "seen"), (2, "unseen")):
        these = attack & (tool == code)
        ratios[f"recall_{word}_tools"] = (these & (true == predicted), these)
        ratios[f"detection_{word}_tools"] = (these & (predicted > 0), these)
        ratios[f"alert_recall_{word}_tools"] = (these & (alert == _ALERT), these)
        these = ~attack & (tool == code)
        ratios[f"false_positive_rate_{word}_services"] = (these & (predicted > 0), these)
        ratios[f"alert_false_positive_rate_{word}_services"] = (these & (alert == _ALERT), these)

    values = {name: float(_share(totals, ratio)[0]) for name, ratio in ratios.items()}
    drawn = {name: _share(draws, ratio) for name, ratio in ratios.items()}
    support = {name: folded.blocks_with(ratio[1]) for name, ratio in ratios.items()}
    values["macro_f1"] = float(_macro_f1(totals, true, predicted, rows.schema)[0])
    drawn["macro_f1"], support["macro_f1"] = _macro_f1(draws, true, predicted, rows.schema), blocks.n

    rate = "alert_false_positive_rate"
    values["false_alerts_per_day"] = values[rate] * flows_per_day
    drawn["false_alerts_per_day"], support["false_alerts_per_day"] = drawn[rate] * flows_per_day, support[rate]
    notes.append(f"false_alerts_per_day is for {flows_per_day:,.0f} benign flows a day")
    fpr, fprs = values[rate], drawn[rate]
    if n_benign and fpr == 0:
        # None among n says that the rate is below 3/n at 95 % (Hanley & Lippman-Hand, JAMA 1983), not that it is 0.
        fpr = min(1.0, 3 / n_benign)
        fprs = np.full_like(fprs, fpr)
        notes.append(
            f"no false alert among {n_benign} benign rows: precision_at_prevalence takes the 95 % upper bound {fpr:.2g}"
        )
    for point in m.PREVALENCES:
        name = f"precision_at_prevalence_{point}"
        values[name] = float(m.precision_at_prevalence(values["alert_recall"], fpr, float(point)))
        drawn[name] = m.precision_at_prevalence(drawn["alert_recall"], fprs, float(point))
        support[name] = min(support[rate], support["alert_recall"])

    headline = {}
    recalls = [Interval(value=None)] * rows.schema.output_dim
    index = {f"recall.{name}": c for c, name in enumerate(rows.schema.classes)}
    for name, value in values.items():
        entry = interval(value, drawn[name], support[name])
        if name in index:
            recalls[index[name]] = entry
        elif name.startswith("recall_at_fpr_"):
            point = name.removeprefix("recall_at_fpr_")
            if point not in resolved:
                entry = Interval(value=None)
            elif not resolved[point]:
                entry = Interval(value=entry.value)
            headline[name] = entry
        else:
            headline[name] = entry
    certain = [name for name, entry in headline.items() if entry.low is not None and entry.low == entry.high]
    if certain:
        notes.append(f"an interval without width says that all blocks agree, not more: {', '.join(certain)}")
    few = [
        name for c, name in enumerate(rows.schema.classes) if recalls[c].value is not None and recalls[c].low is None
    ]
    if few:
        notes.append(f"too few blocks ({blocks.kind}) for an interval of the recall of {', '.join(few)}")
    gone = [name for c, name in enumerate(rows.schema.classes) if recalls[c].value is None]
    if gone:
        notes.append(f"no held-out row of {', '.join(gone)}")
    confusion = _confusion(totals, true, predicted, rows.schema.output_dim)[0]
    raised = np.array([_share(totals, ((true == c) & (alert == _ALERT), true == c))[0] for c in index.values()])
    return headline, recalls, confusion, raised


def _ratios(true: Any, predicted: Any, alert: Any, schema: TrafficSchema) -> dict[str, Ratio]:
    """The figures that are a share of rows, as numerator and denominator over patterns."""
    everything, benign, attack = np.ones_like(true, bool), true == 0, true > 0
    ratios: dict[str, Ratio] = {
        "accuracy": (true == predicted, everything),
        "false_positive_rate": (benign & (predicted > 0), benign),
        "detection_rate": (attack & (predicted > 0), attack),
        "alert_false_positive_rate": (benign & (alert == _ALERT), benign),
        "alert_recall": (attack & (alert == _ALERT), attack),
        "uncertain_share": (alert == _UNCERTAIN, everything),
    }
    for c, name in enumerate(schema.classes):
        ratios[f"recall.{name}"] = ((true == c) & (predicted == c), true == c)
    return ratios


def _share(counts: Floats, ratio: Ratio) -> Floats:
    """A ratio for pattern counts [R, U]; NaN where its denominator is 0. [R]."""
    top, bottom = counts[:, ratio[0]].sum(axis=1), counts[:, ratio[1]].sum(axis=1)
    return np.divide(top, bottom, out=np.full(len(counts), np.nan), where=bottom > 0)


def _confusion(counts: Floats, true: Any, predicted: Any, n_classes: int) -> Floats:
    """Confusion matrices [R, C, C] of pattern counts [R, U]."""
    cell = np.zeros((counts.shape[1], n_classes * n_classes))
    cell[np.arange(counts.shape[1]), true * n_classes + predicted] = 1
    return (counts @ cell).reshape(-1, n_classes, n_classes)


def _macro_f1(counts: Floats, true: Any, predicted: Any, schema: TrafficSchema) -> Floats:
    return m.macro_f1(_confusion(counts, true, predicted, schema.output_dim))


def _alert_code(alerts: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    from robustidps.decisions import UNCERTAIN

    return np.where(alerts > 0, _ALERT, np.where(alerts == UNCERTAIN, _UNCERTAIN, _NO_ALERT)).astype(np.int64)


def _depth(scores: Floats, benign: Any, notes: list[str]) -> tuple[npt.NDArray[np.int64], dict[str, bool]]:
    """How many of the false-positive rates (1e-2, 1e-3, 1e-4) a row's score lies beyond the threshold for, [N].

    Second: per rate that can be spoken of, whether at least ten benign rows settle its threshold.
    """
    depth, resolved = np.zeros(len(scores), np.int64), {}
    n = int(benign.sum())
    for level, point in enumerate(m.FPR_POINTS, start=1):
        allowed = int(np.floor(float(point) * n + 1e-9))
        if allowed < 1:
            notes.append(
                f"recall_at_fpr_{point}: {n} benign rows can't resolve it; at least {1 / float(point):,.0f} needed"
            )
            continue
        resolved[point] = allowed >= 10
        if allowed < 10:
            notes.append(f"recall_at_fpr_{point} rests on {allowed} benign row{'s'[: allowed > 1]}: no interval")
        depth[scores > m.threshold_at_fpr(scores[benign], float(point))] = level
    return depth, resolved


def _seen(
    rows: TrafficSet, seen_tools: Iterable[str] | None, seen_services: Iterable[str] | None, notes: list[str]
) -> npt.NDArray[np.int64]:
    """1 where a row's attack tool or benign service was in training, 2 where not, 0 where nobody knows; [N]."""
    code, names = np.zeros(len(rows), np.int64), rows.tool.astype(str)
    for what, these, known in (("tools", rows.labels > 0, seen_tools), ("services", rows.labels == 0, seen_services)):
        if known is None:
            notes.append(f"{what} seen and unseen in training were not told apart")
        else:
            these = these & (names != "")
            code[these] = np.where(np.isin(names[these], list(known)), 1, 2)
    return code


def _windows(
    rows: TrafficSet, predicted: npt.NDArray[np.int64], blocks: Blocks, resamples: int, seed: int, notes: list[str]
) -> tuple[list[dict[str, float | None]], dict[str, float | None]]:
    """Five to ten windows of equally many rows in order of time, and the stability they give."""
    figures: dict[str, float | None] = {"stability": None, "stability_macro_f1": None}
    if not rows.has_time:
        notes.append("stability: the rows have no time")
        return [], figures
    n = min(MAX_WINDOWS, len(rows) // MIN_ROWS_PER_WINDOW)
    if n < MIN_WINDOWS:
        notes.append(f"stability: {len(rows)} rows are too few for {MIN_WINDOWS} windows of {MIN_ROWS_PER_WINDOW}")
        return [], figures
    windows: list[dict[str, float | None]] = []
    for part in np.array_split(np.argsort(rows.time, kind="stable"), n):
        there, code = np.unique(blocks.code[part], return_inverse=True)
        local = Blocks(code, len(there), blocks.kind)
        folded: Folded = fold([rows.labels[part], predicted[part]], local)
        true, guess = folded.patterns.T
        ratios = _ratios(true, guess, np.zeros_like(true), rows.schema)
        right = ratios["accuracy"]
        accuracy = interval(
            float(_share(folded.totals, right)[0]), _share(folded.resample(resamples, seed), right), local.n
        )
        windows.append(
            {
                "time_from": float(rows.time[part[0]]),
                "time_to": float(rows.time[part[-1]]),
                "rows": float(len(part)),
                "accuracy": accuracy.value,
                "accuracy_low": accuracy.low,
                "accuracy_high": accuracy.high,
                "macro_f1": float(_macro_f1(folded.totals, true, guess, rows.schema)[0]),
                "false_positive_rate": _known(_share(folded.totals, ratios["false_positive_rate"])[0]),
            }
        )
    for name, key in (("stability", "accuracy"), ("stability_macro_f1", "macro_f1")):
        values = np.array([w[key] for w in windows], np.float64)
        figures[name] = float(values.min() / values.mean()) if values.mean() > 0 else 0.0
    return windows, figures


def _known(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
