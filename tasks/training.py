"""The task that trains a model and writes its bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prefect import task

from robustidps.families import family_settings, get_family
from robustidps.progress import current
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN
from robustidps.tasks.references import load
from robustidps.training import train_bundle

__all__ = ["discard_bundles", "train_model"]


@task(name="discard bundles", **PLAIN)
def discard_bundles(name: str, version: str) -> None:
    """Removes the working copies of a version's bundles, one a seed."""
    for folder in get_settings().folder("runs", name).glob(f"{version}-seed*"):
        shutil.rmtree(folder, ignore_errors=True)


@task(name="train model", **PLAIN)
def train_model(
    family: str,
    overrides: dict[str, Any],
    train: dict[str, Any],
    validation: dict[str, Any],
    *,
    name: str,
    version: str,
    dataset: str,
    split: str,
    held_out: list[str] | None = None,
    description: str = "",
) -> dict[str, Any]:
    """Trains on the referenced traffic; gives the bundle's folder and digest, its settings and the curves per epoch."""
    kind = get_family(family)
    settings = family_settings(kind, overrides)
    installation = get_settings()
    out = installation.folder("runs", name) / f"{version}-seed{settings.seed}"
    if out.exists():  # left by a run that was ended before it registered this number
        shutil.rmtree(out)
    result = train_bundle(
        kind,
        settings,
        load(train),
        load(validation),
        name=name,
        version=version,
        out=out,
        author=installation.author,
        description=description,
        dataset=dataset,
        split=split,
        held_out=held_out or [],
        progress=current(),
    )
    return {
        "path": str(Path(result.bundle.path)),
        "digest": result.bundle.digest,
        "settings": settings.model_dump(mode="json"),
        "history": result.history,
        "metrics": dict(result.bundle.metadata.performance_metrics),
    }
