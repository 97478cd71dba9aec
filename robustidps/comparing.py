"""Looks up registered versions by what people call them, judges one anew, and sets two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import DatasetError
from robustidps.judging import read_evaded, read_held_out
from robustidps.progress import Progress, current
from robustidps.registry.metadata import MAX_SPLIT
from robustidps.settings import check_name
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.evaluation.report import Evaluation, PairedDifference
    from robustidps.registry.registry import ModelRegistry

__all__ = ["Comparison", "compare_versions", "evaluate_version", "held_out_of", "resolve"]


def resolve(registry: ModelRegistry, reference: str, default: str = "production") -> Bundle:
    """The bundle that NAME or NAME@WHICH means; WHICH is a version, `production`, `staging`, `previous` or `latest`.

    Raises:
        NameInvalidError, NotFoundError, IntegrityError.
    """
    name, _, which = reference.partition("@")
    return registry.bundle(check_name(name), which or default)


def held_out_of(registry: ModelRegistry, bundle: Bundle, on: Path | None = None) -> tuple[TrafficSet, str]:
    """The traffic that a version is judged on, and what its data set is called: `on`, or what it was held out from.

    Raises:
        NotFoundError, IntegrityError, DatasetError.
    """
    meta = bundle.metadata
    if on is not None:
        traffic = TrafficSet.read(on)
        dataset = on.name
    else:
        record = registry.resolve(meta.name, meta.version)
        traffic = read_held_out(record.held_out, f"{meta.name} {meta.version}", home=registry.settings.home)
        dataset = str((record.held_out or {}).get("dataset", "held-out traffic"))
    return traffic, dataset


def _evaded(registry: ModelRegistry, bundle: Bundle, path: Path | None) -> TrafficSet | None:
    meta = bundle.metadata
    if path is not None:
        return TrafficSet.read(path)
    held_out = registry.resolve(meta.name, meta.version).held_out
    return read_evaded(held_out, f"{meta.name} {meta.version}", home=registry.settings.home)


def evaluate_version(
    registry: ModelRegistry,
    name: str,
    which: str,
    *,
    on: Path | None = None,
    evaded: Path | None = None,
    folder: Path | None = None,
) -> tuple[Evaluation, list[Path]]:
    """Judges a registered version on its held-out traffic or on `on`; its page (first) and pictures go to `folder`.

    Args:
        evaded: attacks altered to evade; default: those that the version was registered with, if any.
    """
    from robustidps.evaluation.background import Background
    from robustidps.evaluation.base_rates import base_rates
    from robustidps.evaluation.evaluate import evaluate
    from robustidps.evaluation.page import write_page
    from robustidps.evaluation.plots import draw

    bundle = resolve(registry, f"{name}@{which}")
    traffic, dataset = held_out_of(registry, bundle, on)
    altered = _evaded(registry, bundle, evaded)
    evaluation, predictions = evaluate(bundle, traffic, dataset=dataset, evaded=altered, progress=current())
    meta = bundle.metadata
    reports = registry.settings.folder("reports", meta.name, meta.version)
    folder = folder or reports / evaluation.data_digest[:12]
    rates = base_rates(evaluation, registry.settings.alerts_per_analyst)
    pictures = draw(evaluation, predictions, traffic, folder, rates)
    split = meta.training.split if meta.training and on is None else ""
    split += " …" if len(split) >= MAX_SPLIT else ""  # metadata has no room for more
    background = Background.of(meta, evaluation, folder, split=split, reports=reports)
    page = write_page(evaluation, folder, rates=rates, pictures=pictures, background=background)
    return evaluation, [page, *pictures]


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same rows; `differences` are candidate minus champion."""

    candidate: Evaluation
    champion: Evaluation
    differences: list[PairedDifference]
    picture: Path

    def as_dict(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate.model_dump(mode="json"),
            "champion": self.champion.model_dump(mode="json"),
            "differences": [d.model_dump(mode="json") for d in self.differences],
            "picture": str(self.picture),
        }


def compare_versions(
    registry: ModelRegistry, candidate: str, champion: str, *, on: Path | None = None, folder: Path | None = None
) -> Comparison:
    """Scores both on the same traffic; the intervals of the differences are paired.

    Raises:
        DatasetError: the two read different features or classes.
    """
    from robustidps.evaluation.comparison import draw_comparison
    from robustidps.evaluation.evaluate import evaluate, paired

    progress: Progress = current()
    one, other = resolve(registry, candidate), resolve(registry, champion)
    if one.schema.digest != other.schema.digest:
        raise DatasetError(
            f"{candidate} reads {one.schema.name}, {champion} reads {other.schema.name}: no traffic fits both"
        )
    traffic, dataset = held_out_of(registry, one, on)
    evaded = _evaded(registry, one, None)
    first, first_rows = evaluate(one, traffic, dataset=dataset, evaded=evaded, progress=progress)
    second, second_rows = evaluate(other, traffic, dataset=dataset, evaded=evaded, progress=progress)
    differences = paired(first_rows, second_rows, traffic)
    meta = one.metadata
    target = folder or registry.settings.folder("reports", meta.name, meta.version)
    name = f"against-{other.metadata.name}-{other.metadata.version}.png"
    return Comparison(first, second, differences, draw_comparison(first, second, differences, target / name))
