"""Labels that came back: which flows may be trained on after an alarm, and whether they are enough.

A model is retrained only where somebody has named where its labels come from, in `HOME/configs/retraining/MODEL.yaml`.
Labels are input from outside, so they are taken with care:

- a file waits `quarantine_days` after it was last changed or put in place (the time that the file system keeps and no
  program can set), so that wrong labels can be taken back before anything learns from them;
- no source gives more than `cap_per_source` flows, drawn at random;
- flows that are in the production version's fixed evaluation set are never trained on, whatever they are labelled;
- flows that sources label differently are left out;
- benign flows, at least one attack class and every class in `classes` need `min_per_class` flows; a rarer class is left
  out.

What is left is cut by time: the earlier part is trained on, together with what the version in production was trained on
where that is still here; the latest part judges, by the rules, as for any other candidate. And a model is
retrained at most once in `every_days`, by the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from robustidps.errors import DatasetError, NotFoundError, RefusedError
from robustidps.judging import read_held_out
from robustidps.monitoring.windows import training_rows
from robustidps.registry.ledger import Decision
from robustidps.settings import check_name, config_file, exists, load_yaml
from robustidps.traffic.splits import Split, temporal_split
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["Gathered", "LabelSource", "Retraining", "gather", "may_retrain", "retraining", "started"]

STARTED, HELD = "started", "hold"


class LabelSource(BaseModel):
    """Who gives labels, and the folder of labelled Parquet files (`robustidps ingest --labels`) that they lie in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    folder: Path


class Retraining(BaseModel):
    """`HOME/configs/retraining/MODEL.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[LabelSource] = Field(min_length=1, max_length=100)
    rules: str | None = Field(default=None, description="rule set; default: that of the version in production")
    quarantine_days: float = Field(default=7, ge=0, le=3650, allow_inf_nan=False)
    cap_per_source: int = Field(default=50_000, ge=1)
    min_per_class: int = Field(default=100, ge=1)
    classes: list[str] = Field(default_factory=list, description="classes that there must be enough of, besides benign")
    every_days: float = Field(default=7, ge=0, le=3650, allow_inf_nan=False, description="at most one retraining in")
    promote_to: Literal["Staging", "Production"] = Field(
        default="Staging", description="how far the rules are asked for"
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="settings of the family")


def retraining(model: str) -> Retraining | None:
    """What is configured for a model; None where no source of labels is named. Raises ConfigError."""
    path = config_file("retraining", check_name(model))
    return load_yaml(path, Retraining) if path.is_file() else None


def may_retrain(
    decisions: Sequence[Decision], window: str, config: Retraining | None, now: datetime | None = None
) -> str | None:
    """Why a model isn't retrained because of this window; None where it may be.

    Raises:
        RefusedError: the ledger has no alarm of this window: whoever asks for a retraining, an alarm has to stand.
    """
    now = now or datetime.now(UTC)
    if not any(d.action == "alarm" and d.evidence.get("window") == window for d in decisions):
        raise RefusedError(
            "no alarm of this window is on record, so nothing is trained because of it",
            where=window,
            remedy="look at the windows there are: robustidps drift list MODEL; or train without one: robustidps train",
        )
    if config is None:
        return "no source of labels is named (configs/retraining/MODEL.yaml)"
    last = max((d.time for d in decisions if d.action == "retrain" and d.verdict == STARTED), default=None)
    if last is not None and now - last < timedelta(days=config.every_days):
        return f"it was retrained on {last:%Y-%m-%d %H:%M} UTC, and is at most once in {config.every_days:g} days"
    return None


@dataclass(frozen=True)
class Gathered:
    """Flows that may be trained on, by part; or why they aren't enough. facts: what was taken and what was left out."""

    split: Split | None
    shortage: str | None
    facts: dict[str, Any]


def gather(registry: ModelRegistry, model: str, config: Retraining, now: datetime | None = None) -> Gathered:
    """Reads all sources and cuts what may be used into parts.

    Raises:
        DatasetError, SchemaError: a file can't be read, or is of another schema.
        NotFoundError, IntegrityError: the fixed evaluation set is gone or was changed, so that it can't be kept out.
    """
    now = now or datetime.now(UTC)
    record = registry.resolve(model, "production")
    bundle = registry.bundle(model, record.version)
    schema = bundle.schema
    fixed = _keys(read_held_out(record.held_out, f"{model} {record.version}").features)
    facts: dict[str, Any] = {"sources": {}, "version": record.version}
    parts: list[TrafficSet] = []
    for number, source in enumerate(config.sources):
        ripe, waiting = _files(source.folder, now, config.quarantine_days)
        known = [_labelled(path, schema.digest, schema.name) for path in ripe]
        traffic = TrafficSet.concat(known) if known else None
        taken: dict[str, int] = {"files": len(ripe), "files in quarantine": waiting, "flows": 0}
        if traffic is not None and len(traffic):
            evaluated = np.isin(_keys(traffic.features), fixed)
            taken["flows of the fixed evaluation set, left out"] = int(evaluated.sum())
            traffic = traffic.select(~evaluated)
            if len(traffic) > config.cap_per_source:
                chosen = np.random.default_rng(number).choice(len(traffic), config.cap_per_source, replace=False)
                taken["flows above the cap, left out"] = len(traffic) - config.cap_per_source
                traffic = traffic.select(np.sort(chosen))
            taken["flows"] = len(traffic)
            parts.append(traffic)
        facts["sources"][source.name] = taken
    whole = TrafficSet.concat(parts) if parts else None
    if whole is None or not len(whole):
        return Gathered(None, "no source has a labelled flow that is out of quarantine", facts)
    kept, contradicted, repeated = _agreed(whole)
    facts |= {"flows labelled differently, left out": contradicted, "flows given twice, left out": repeated}
    whole = whole.select(kept)
    counts = whole.class_counts()
    enough = {name for name, n in counts.items() if n >= config.min_per_class}
    facts["flows per class"] = {name: n for name, n in counts.items() if n}
    wanted = {schema.benign, *config.classes}
    strangers = sorted(wanted - set(schema.classes))
    if strangers:
        raise DatasetError(f"{strangers[0]!r} is no class of {schema.name}", where=f"configs/retraining/{model}.yaml")
    lacking = sorted(wanted - enough)
    if not (enough - {schema.benign}):
        lacking.append("any attack")
    if lacking:
        text = ", ".join(f"{name} ({counts.get(name, 0):,})" for name in lacking)
        return Gathered(None, f"too few labelled flows of {text}; {config.min_per_class:,} of each are needed", facts)
    rare = sorted(name for name, n in counts.items() if n and name not in enough)
    if rare:
        facts["classes with too few flows, left out"] = rare
        whole = whole.select(np.isin(whole.labels, [schema.classes.index(name) for name in enough]))
    split = temporal_split(whole, train=0.5, validation=0.2)
    base = training_rows(registry.settings.home, bundle)
    facts["flows of the earlier training"] = 0 if base is None else len(base)
    train = split.train if base is None else TrafficSet.concat([base, split.train])
    return Gathered(Split(train, split.validation, split.test, split.report), None, facts)


def started(
    registry: ModelRegistry, model: str, version: str, window: str, gathered: Gathered | None, why: str
) -> None:
    """Puts into the ledger that a model is being retrained because of a window, or (with a remark) that it isn't."""
    facts = {"window": window, **(gathered.facts if gathered else {})}
    going = gathered is not None and gathered.split is not None and not why
    reasons = [why] if why else [f"labels of {', '.join(facts['sources'])} after the alarm of window {window}"]
    verdict = STARTED if going else HELD
    registry.record(model, version, "retrain", reasons=reasons, evidence=facts, verdict=verdict)


def _files(folder: Path, now: datetime, quarantine_days: float) -> tuple[list[Path], int]:
    """Files that have lain there long enough, by name, and how many haven't."""
    if not exists(folder) or not folder.is_dir():
        raise NotFoundError("the folder of a source of labels isn't there", where=folder)
    found = sorted(p for p in folder.glob("*.parquet") if p.is_file())
    since = now.timestamp() - quarantine_days * 86_400
    # The inode's change time: unlike the time of modification, no program can set it.
    ripe = [p for p in found if p.stat().st_ctime <= since]
    return ripe, len(found) - len(ripe)


def _labelled(path: Path, digest: str, name: str) -> TrafficSet:
    traffic = TrafficSet.read(path)
    if traffic.schema.digest != digest:
        raise DatasetError(f"is traffic of schema {traffic.schema.name}, the model's is {name}", where=path)
    return traffic.select(traffic.labelled)


def _keys(features: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """One comparable value a row, [N]: equal rows, missing values included, have equal ones."""
    rows = np.where(np.isnan(features), np.float32(np.nan), features) + np.float32(0)  # one NaN, and no negative zero
    rows = np.ascontiguousarray(rows, np.float32)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def _agreed(traffic: TrafficSet) -> tuple[npt.NDArray[np.int64], int, int]:
    """Positions of rows to keep, one of each; how many were labelled differently, and how many were there twice."""
    _, first, code = np.unique(_keys(traffic.features), return_index=True, return_inverse=True)
    low = np.full(len(first), np.iinfo(np.int16).max, np.int64)
    high = np.full(len(first), -1, np.int64)
    np.minimum.at(low, code, traffic.labels)
    np.maximum.at(high, code, traffic.labels)
    agreed = low == high
    kept = np.sort(first[agreed])
    contradicted = int((~agreed)[code].sum())
    return kept, contradicted, len(traffic) - contradicted - len(kept)
