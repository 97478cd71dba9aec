"""Drift of current against reference traffic: Evidently's page for people, our own figures for rules.

`drift_report` writes four things that don't depend on each other's reading: `drift.html` (Evidently's page),
`evidently.json` (its figures as it gives them), `drift.json` (the `DriftSummary` below) and returns the summary.
Evidently's two metrics disagree about the share of drifted columns, so the share is counted here, from each column's
value, method and threshold, all of them named. Method and threshold never depend on the number of rows.

Above `sample` rows a side, Evidently sees a seeded sample, and page and summary say so; PSI per column and the shares
of predicted classes are over all rows.

Evidently puts words from the traffic into its page unescaped: a category `</script><script>..` would run. So only
tokens of ours reach it (`tokens`), whatever columns, categories and classes are called, and the page carries a content
security policy that forbids it to load or send anything.
"""

from __future__ import annotations

import html
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustidps.errors import DatasetError, MissingExtraError, SchemaError
from robustidps.evaluation.reference import drift_against_profile, profile
from robustidps.progress import Progress, silent
from robustidps.settings import CONFIGS, get_settings, load_yaml, write_whole
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ColumnDrift",
    "DriftSettings",
    "DriftSummary",
    "PredictionDrift",
    "WindowRules",
    "drift_report",
    "jensen_shannon",
    "tokens",
]

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)
_FILES = {"html": "drift.html", "evidently": "evidently.json", "summary": "drift.json"}
_PREDICTION = "prediction"
_FEW = 1000  # two samples of one normal distribution are 0.06 apart on average at 1000 rows, 0.10 at 300


class WindowRules(BaseModel):
    """When a window of traffic counts as drifted, and when that is an alarm (`robustidps.monitoring`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(default=3, ge=1, le=100, description="an alarm needs this many drifted windows")
    n: int = Field(default=5, ge=1, le=100, description="... of so many that came last, the latest among them")
    psi: float = Field(default=0.25, gt=0, le=100, allow_inf_nan=False, description="from which a column has moved")
    share: float = Field(default=0.2, gt=0, le=1, allow_inf_nan=False, description="of columns that have moved")
    alerts_factor: float = Field(
        default=3.0, gt=1, le=1e6, allow_inf_nan=False, description="more or fewer alerts than in the first window"
    )
    accuracy_drop: float = Field(
        default=0.05, gt=0, le=1, allow_inf_nan=False, description="below validation, where labels came back"
    )
    repeat_h: float = Field(
        default=20, ge=0, le=8760, allow_inf_nan=False, description="hours after which a lasting alarm is told again"
    )
    evidently: Literal["always", "drifted", "never"] = Field(
        default="always", description="which windows get Evidently's page (8 MB each)"
    )

    @model_validator(mode="after")
    def _k_of_n(self) -> WindowRules:
        if self.k > self.n:
            raise ValueError(f"k = {self.k} of n = {self.n} windows can never be")
        return self


class DriftSettings(BaseModel):
    """`configs/drift.yaml`. Every method is a distance: 0 is no drift; a column drifted at its threshold or above."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample: int = Field(default=5000, ge=200, le=100_000, description="rows a side for Evidently's report")
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    min_rows: int = Field(default=100, ge=20, description="fewer rows a side are refused")
    numeric_method: Literal["wasserstein", "psi", "jensenshannon", "hellinger"] = "wasserstein"
    numeric_threshold: float = Field(default=0.1, gt=0, le=100, allow_inf_nan=False)
    categorical_method: Literal["psi", "jensenshannon", "hellinger"] = "jensenshannon"
    categorical_threshold: float = Field(default=0.1, gt=0, le=100, allow_inf_nan=False)
    missing_threshold: float = Field(default=0.1, gt=0, le=1, allow_inf_nan=False)
    prediction_threshold: float = Field(default=0.1, gt=0, le=1, allow_inf_nan=False)
    windows: WindowRules = WindowRules()

    @classmethod
    def load(cls) -> DriftSettings:
        """`drift.yaml`, from HOME/configs or ours. Raises ConfigError."""
        own = get_settings().home / "configs" / "drift.yaml"
        return load_yaml(own if own.is_file() else CONFIGS / "drift.yaml", cls)


class ColumnDrift(BaseModel):
    """One column. value: the distance by `method` on the (sampled) rows, None where one side has no value at all.
    psi: population stability index over all rows. reason: why it counts as drifted, empty where it doesn't."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    transform: Literal["identity", "log", "onehot"]
    method: str
    threshold: float
    value: float | None
    psi: float
    missing_reference: float
    missing_current: float
    drifted: bool
    reason: str = ""


class PredictionDrift(BaseModel):
    """Shares of predicted classes (argmax) over all rows. jensen_shannon: distance, natural logarithm, 0 to 0.83."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: dict[str, float]
    current: dict[str, float]
    jensen_shannon: float
    psi: float
    confidence_psi: float | None
    threshold: float
    drifted: bool


class DriftSummary(BaseModel):
    """What `drift_report` found. Files are names within the folder that it was given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    schema_digest: str
    reference_digest: str
    current_digest: str
    reference_rows: int
    current_rows: int
    reference_sampled: int | None = Field(description="rows the column distances are from; None for all")
    current_sampled: int | None
    settings: DriftSettings
    columns: list[ColumnDrift]
    drifted_columns: int
    drifted_share: float = Field(description="of columns, counted from `columns`")
    prediction: PredictionDrift | None
    files: dict[str, str]
    notes: list[str] = Field(default_factory=list)

    @property
    def sampled(self) -> bool:
        return self.reference_sampled is not None or self.current_sampled is not None

    @property
    def headline(self) -> str:
        """One sentence for a log or a page; holds no word from the traffic."""
        text = f"{self.drifted_columns} of {len(self.columns)} columns drifted ({self.drifted_share:.0%})"
        if self.prediction:
            moved = "drifted" if self.prediction.drifted else "did not drift"
            text += f"; predictions {moved} (Jensen-Shannon {self.prediction.jensen_shannon:.3f})"
        return text


def drift_report(
    reference: TrafficSet,
    current: TrafficSet,
    folder: Path,
    *,
    reference_probabilities: npt.NDArray[np.float32] | None = None,
    current_probabilities: npt.NDArray[np.float32] | None = None,
    settings: DriftSettings | None = None,
    files: dict[str, str] | None = None,
    origin: Sequence[str] = (),
    keep: Callable[[Any], object] | None = None,
    progress: Progress = silent,
) -> DriftSummary:
    """Compares `current` with `reference` and writes `drift.html`, `evidently.json` and `drift.json` into `folder`.

    Args:
        reference, current: traffic of one schema; labels play no part.
        reference_probabilities, current_probabilities: float32 [N, C] for the rows of each; without both there is no
            prediction drift.
        settings: default: `configs/drift.yaml`.
        files: other names for the three, by `html`, `evidently` and `summary`.
        origin: sentences on where the rows come from, in place of those that count them.
        keep: called with Evidently's snapshot, which holds no word from the traffic either.

    Raises:
        SchemaError: the schemas differ, or probabilities don't fit the rows.
        DatasetError: too few rows on a side.
        MissingExtraError: Evidently is not installed.
        StorageError: the folder can't be written to.
    """
    settings = settings or DriftSettings.load()
    if reference.schema.digest != current.schema.digest:
        raise SchemaError(f"reference is {reference.schema.name}, current is {current.schema.name}", where="drift")
    for word, side in (("reference", reference), ("current", current)):
        if len(side) < settings.min_rows:
            raise DatasetError(
                f"{len(side)} rows of {word} traffic are too few to speak of drift",
                where=word,
                remedy=f"give at least {settings.min_rows}",
            )
    predicted = reference_probabilities is not None and current_probabilities is not None
    progress("drift over all rows", 0, 2)
    known = profile(reference, reference_probabilities if predicted else None)
    over_all = drift_against_profile(known, current.features, current_probabilities if predicted else None)
    progress("drift over all rows", 1, 2)

    names = dict(zip(reference.schema.feature_names, tokens(reference.schema.feature_names), strict=True))
    frames, sampled = [], []
    for seed, side, p in (
        (settings.seed, reference, reference_probabilities),
        (settings.seed + 1, current, current_probabilities),
    ):
        rows = _sample(len(side), settings.sample, seed)
        sampled.append(None if rows is None else len(rows))
        frames.append(_frame(side, p if predicted else None, names, rows))
    missing = [np.mean(~np.isfinite(side.features), axis=0) for side in (reference, current)]
    comparable = {
        name: token
        for name, token in names.items()
        if all(frame[token].notna().any() for frame in frames)  # Evidently stops at a column without a value
    }
    progress("Evidently's report", 0, 1)
    values, page, raw, snapshot = _evidently(frames, reference, comparable, predicted, settings)
    progress("Evidently's report", 1, 1)

    columns = []
    for i, feature in enumerate(reference.schema.features):
        categorical = feature.kind == "categorical"
        threshold = settings.categorical_threshold if categorical else settings.numeric_threshold
        value = values.get(names[feature.name])
        gap = float(missing[1][i] - missing[0][i])
        reason = ""
        if value is not None and value >= threshold:
            reason = "distance"
        elif abs(gap) >= settings.missing_threshold:
            reason = "missing values"
        columns.append(
            ColumnDrift(
                column=feature.name,
                transform=feature.transform,
                method=settings.categorical_method if categorical else settings.numeric_method,
                threshold=threshold,
                value=value,
                psi=over_all["psi"][feature.name],
                missing_reference=float(missing[0][i]),
                missing_current=float(missing[1][i]),
                drifted=bool(reason),
                reason=reason,
            )
        )
    drifted = sum(c.drifted for c in columns)
    summary = DriftSummary(
        schema_digest=reference.schema.digest,
        reference_digest=reference.digest,
        current_digest=current.digest,
        reference_rows=len(reference),
        current_rows=len(current),
        reference_sampled=sampled[0],
        current_sampled=sampled[1],
        settings=settings,
        columns=columns,
        drifted_columns=drifted,
        drifted_share=drifted / len(columns),
        prediction=_prediction(known, current, current_probabilities, over_all, settings) if predicted else None,
        files={**_FILES, **(files or {})},
        notes=_notes(reference, current, sampled, settings, len(names) - len(comparable), predicted, origin),
    )
    write_whole(folder / summary.files["html"], _dressed(page, summary))
    write_whole(folder / summary.files["evidently"], json.dumps(raw, indent=1, default=str) + "\n")
    write_whole(folder / summary.files["summary"], json.dumps(summary.model_dump(mode="json"), indent=1) + "\n")
    if keep is not None:
        with _quietly():
            keep(snapshot)
    return summary


def tokens(words: Sequence[str]) -> list[str]:
    """A safe word for each: letters, digits, blank and `_.:/+()-` of ASCII stay, all else becomes `_`; at most 60
    characters; words that then coincide, or had to be changed, get their position at the end, so that all differ."""
    safe: list[str] = []
    taken: set[str] = set()
    for position, word in enumerate(words):
        token = re.sub(r"[^A-Za-z0-9 _.:/+()-]", "_", str(word)[:60]).strip() or "_"
        while token != word or token in taken:
            token = f"{token} [{position}]"
            if token not in taken:
                break
        taken.add(token)
        safe.append(token)
    return safe


def _frame(
    traffic: TrafficSet,
    probabilities: npt.NDArray[np.float32] | None,
    names: dict[str, str],
    rows: npt.NDArray[np.int64] | None,
) -> pd.DataFrame:
    """What Evidently sees: tokens for columns and categories, logarithms where the schema's transform takes them."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError("pandas", "mlops") from None
    chosen = slice(None) if rows is None else rows
    columns: dict[str, Any] = {}
    for i, feature in enumerate(traffic.schema.features):
        column = traffic.features[chosen, i].astype(np.float64)
        finite = np.isfinite(column)
        if feature.kind == "categorical":
            words = np.array([*tokens(["other", *feature.vocabulary]), "missing value"], dtype=object)
            index = np.rint(np.where(finite, column, 0)).astype(np.int64)
            index[(index < 0) | (index > len(feature.vocabulary))] = 0
            index[~finite] = len(words) - 1
            columns[names[feature.name]] = words[index]
        else:
            column = np.where(finite, column, np.nan)
            if feature.transform == "log":
                column = np.sign(column) * np.log1p(np.abs(column))
            columns[names[feature.name]] = column
    if probabilities is not None:
        classes = np.array(tokens(traffic.schema.classes), dtype=object)
        columns[_column_for_prediction(names)] = classes[probabilities[chosen].argmax(axis=1)]
    return pd.DataFrame(columns)


def _column_for_prediction(names: dict[str, str]) -> str:
    return _PREDICTION if _PREDICTION not in names.values() else f"{_PREDICTION} of the model"


def _evidently(
    frames: list[pd.DataFrame],
    reference: TrafficSet,
    comparable: dict[str, str],
    predicted: bool,
    settings: DriftSettings,
) -> tuple[dict[str, float], str, Any, Any]:
    """Evidently's distance by column token, its page, its figures as it gives them, and the snapshot they are of."""
    with _quietly():
        try:
            from evidently import DataDefinition, Dataset, Report
            from evidently.presets import DataDriftPreset
        except ImportError:
            raise MissingExtraError("Evidently", "mlops") from None
        words = {f.name for f in reference.schema.features if f.kind == "categorical"}
        numeric = [token for name, token in comparable.items() if name not in words]
        categorical = [token for name, token in comparable.items() if name in words]
        if predicted:
            categorical.append(str(frames[0].columns[-1]))
        used = numeric + categorical
        definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
        before, now = (Dataset.from_pandas(frame[used], data_definition=definition) for frame in frames)
        preset = DataDriftPreset(
            columns=used,
            num_method=settings.numeric_method,
            num_threshold=settings.numeric_threshold,
            cat_method=settings.categorical_method,
            cat_threshold=settings.categorical_threshold,
            include_tests=False,
        )
        snapshot = Report([preset]).run(current_data=now, reference_data=before)
        page = snapshot.get_html_str(as_iframe=False)
        raw = snapshot.dict()
    values = {}
    for metric in raw["metrics"]:
        if metric["config"]["type"].endswith(":ValueDrift"):
            value = float(metric["value"])
            values[metric["config"]["column"]] = value
    return {column: value for column, value in values.items() if np.isfinite(value)}, page, raw["metrics"], snapshot


def _prediction(
    known: dict[str, Any],
    current: TrafficSet,
    probabilities: npt.NDArray[np.float32] | None,
    over_all: dict[str, Any],
    settings: DriftSettings,
) -> PredictionDrift:
    counts = np.bincount(np.asarray(probabilities).argmax(axis=1), minlength=current.schema.output_dim)
    before = np.asarray(known["predictions"], np.float64) / known["rows"]
    now = counts / counts.sum()
    distance = jensen_shannon(before, now)
    return PredictionDrift(
        reference=dict(zip(current.schema.classes, before.tolist(), strict=True)),
        current=dict(zip(current.schema.classes, now.tolist(), strict=True)),
        jensen_shannon=distance,
        psi=over_all["prediction_psi"],
        confidence_psi=over_all["confidence_psi"],
        threshold=settings.prediction_threshold,
        drifted=distance >= settings.prediction_threshold,
    )


def jensen_shannon(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Square root of the Jensen-Shannon divergence in nats (Endres & Schindelin, 2003) of shares; 0 to sqrt(ln 2)."""
    middle = (p + q) / 2
    total = 0.0
    for side in (p, q):
        there = side > 0
        total += float((side[there] * np.log(side[there] / middle[there])).sum()) / 2
    return float(np.sqrt(max(total, 0.0)))


def _notes(
    reference: TrafficSet,
    current: TrafficSet,
    sampled: list[int | None],
    settings: DriftSettings,
    empty: int,
    predicted: bool,
    origin: Sequence[str],
) -> list[str]:
    notes = list(origin)
    for word, side, n in (("reference", reference, sampled[0]), ("current", current, sampled[1])):
        if origin:
            break
        if n is not None:
            notes.append(f"{word}: a random sample of {n:,} of {len(side):,} rows (seed {settings.seed})")
        else:
            notes.append(f"{word}: all {len(side):,} rows")
    numeric = f"{settings.numeric_method}, drifted from {settings.numeric_threshold:g}"
    notes.append(f"numeric columns: {numeric}; logarithms where the schema takes them")
    notes.append(
        f"categorical columns: {settings.categorical_method}, drifted from {settings.categorical_threshold:g}; "
        f"any column: a change of {settings.missing_threshold:.0%} in missing values"
    )
    fewest = min(n or len(side) for side, n in zip((reference, current), sampled, strict=True))
    if fewest < _FEW:
        notes.append(f"with only {fewest:,} rows on a side, chance alone can carry a column over its threshold")
    if empty:
        notes.append(f"{empty} columns without a value on one side are judged by their missing values alone")
    if not predicted:
        notes.append("prediction drift was not measured: the model's probabilities were not given for both sides")
    return notes


def _dressed(page: str, summary: DriftSummary) -> str:
    """Evidently's page under a banner of ours, with a title and a content security policy."""
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in summary.notes)
    banner = (
        '<header style="font:14px/1.5 system-ui,sans-serif;margin:0;padding:14px 24px;border-bottom:1px solid #ddd">'
        f"<strong>{html.escape(summary.headline)}</strong>"
        f'<ul style="margin:6px 0 0;padding-left:20px;color:#555">{lines}'
        "<li>Evidently's own share, below, knows distances alone and counts the prediction as a column.</li>"
        "</ul></header>"
    )
    sampled = ", sampled" if summary.sampled else ""
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">'
        f"<title>Drift report{sampled} - RobustIDPS</title>"
    )
    page = page.replace("<head>", f"<head>{head}", 1)
    return page.replace("<body>", f"<body>{banner}", 1)


def _sample(n: int, most: int, seed: int) -> npt.NDArray[np.int64] | None:
    """Positions of a random sample, in order; None for all."""
    if n <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(n, size=most, replace=False))


@contextmanager
def _quietly() -> Iterator[None]:
    """Evidently warns about divisions and deprecations of its own, which nobody here can act on."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
