"""What flows that make a version share: traffic in its parts, and the way from trained bundles to a judged version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustidps.registry.metadata import MAX_SPLIT
from robustidps.retention import working
from robustidps.settings import get_settings
from robustidps.tasks.evaluation import evaluate_model, report_drift, write_evaluation_page
from robustidps.tasks.registry import promote_version, register_version, release_version, reserve_version
from robustidps.tasks.traffic import evaded, load_traffic, split_traffic, usable
from robustidps.tasks.training import discard_bundles, train_model
from robustidps.traffic.prepare import fingerprint

__all__ = ["candidate", "given_back", "judged", "traffic_parts", "trainings"]

Make = Callable[[str], list[dict[str, Any]]]
"""Gives the bundles of a version, one a seed; the best on validation is registered."""


def traffic_parts(
    dataset: str,
    data_dir: str | None,
    schema_file: str | None,
    split: str | None,
    limit_rows: int | None,
    hold_out: list[str] | None,
) -> dict[str, Any]:
    """Training, validation and held-out parts of a data set, the report of how they were cut, and the `evaded` part:
    held-out attacks altered to evade, None where there are no packets to alter."""
    folder, spec = Path(data_dir) if data_dir else None, Path(schema_file) if schema_file else None
    content = fingerprint(dataset, data_dir=folder, schema_file=spec)
    parts = load_traffic(dataset, data_dir, schema_file, content=content)
    if not usable(parts):
        parts = load_traffic.with_options(refresh_cache=True)(dataset, data_dir, schema_file, content=content)
    cut: dict[str, Any] = split_traffic(parts, dataset, split, 0, limit_rows, hold_out)
    return cut | {"evaded": evaded(dataset, cut["test"], content)}


def trainings(
    family: str,
    overrides: dict[str, Any],
    seeds: int,
    cut: dict[str, Any],
    *,
    name: str,
    dataset: str,
    description: str,
) -> Make:
    """Trains `family` on what `traffic_parts` gave, `seeds` times, from the seed in `overrides` on."""
    first = int(overrides.get("seed", 0))

    def make(version: str) -> list[dict[str, Any]]:
        return [
            train_model(
                family,
                overrides | {"seed": seed},
                cut["train"],
                cut["validation"],
                name=name,
                version=version,
                dataset=dataset,
                split=cut["report"]["text"][:MAX_SPLIT],
                held_out=list(cut["report"]["held_out"]),
                description=description,
            )
            for seed in range(first, first + seeds)
        ]

    return make


def candidate(
    make: Make,
    cut: dict[str, Any],
    *,
    name: str,
    version: str | None,
    breaking: bool,
    dataset: str,
    kept_rules: str,
    promote_to: str | None,
    rules: str | None,
    command: str,
) -> dict[str, Any]:
    """Number -> `make` -> evaluate -> drift -> page -> register (-> promote); where one fails, the number is freed.

    Args:
        cut: as `traffic_parts` gives it.
        kept_rules: rule set that is kept with the version.
        promote_to, rules: a stage to ask for afterwards, and a rule set to ask in place of the kept one.
        command: what repeats this on the command line.
    """
    version = reserve_version(name, version, breaking)
    with given_back(name, version):
        result = judged(make, cut, name=name, version=version, dataset=dataset, kept_rules=kept_rules, command=command)
    outcomes = promote_version(name, version, promote_to, rules) if promote_to else []
    return result | {"promotion": outcomes}


@contextmanager
def given_back(name: str, version: str) -> Iterator[None]:
    """Frees a reserved number where the block fails or is interrupted, and takes away its working files in any case."""
    try:
        with working(get_settings(), name):
            yield
    except BaseException:
        release_version(name, version)
        raise
    finally:
        discard_bundles(name, version)  # the registry keeps its own copy


def judged(
    make: Make, cut: dict[str, Any], *, name: str, version: str, dataset: str, kept_rules: str, command: str
) -> dict[str, Any]:
    """`make` -> evaluate -> drift -> page -> register, under a reserved number. Arguments as for `candidate`."""
    report, altered = cut["report"], cut["evaded"]
    trained = make(version)
    evaluated = [evaluate_model(b, cut["test"], dataset, i == 0, altered) for i, b in enumerate(trained)]
    best = max(range(len(trained)), key=lambda i: trained[i]["metrics"].get("val_macro_f1", 0.0))
    if len(trained) > 1:  # all drew into the version's folder: the pictures that stay are the chosen one's
        evaluated[best] = evaluate_model(trained[best], cut["test"], dataset, evaded=altered)
    drift = report_drift(trained[best], cut["train"], cut["test"])
    evaluated[best] = write_evaluation_page(trained[best], evaluated[best], report["text"])
    registered: dict[str, Any] = register_version(
        name,
        version,
        trained[best],
        evaluated[best],
        drift,
        cut["test"],
        dataset=dataset,
        rules=kept_rules,
        command=command,
        evaded=altered,
    )
    return registered | {
        "dataset": dataset,
        "split": report,
        "settings": trained[best]["settings"],
        "evaluation": evaluated[best]["evaluation"],
        "seeds": [
            {"seed": b["settings"].get("seed"), "metrics": e["evaluation"]["headline"]}
            for b, e in zip(trained, evaluated, strict=True)
        ],
        "drift": drift["summary"] | {"headline": drift["headline"]},
        "page": evaluated[best]["page"],
        "files": evaluated[best]["files"] + drift["files"],
        "promotion": [],
    }
