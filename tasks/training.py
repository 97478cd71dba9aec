"""The task that trains a model and writes its bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from robustidps.families import family_settings, get_family
from robustidps.progress import current
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN
from robustidps.tasks.references import load
from robustidps.training import train_bundle

if TYPE_CHECKING:
    from robustidps.bundle import Bundle

__all__ = ["described", "discard_bundles", "fresh_folder", "train_model"]


def fresh_folder(name: str, version: str, seed: int = 0) -> Path:
    """Where a version's bundle is written; what a run left there that was ended before it registered is removed."""
    out = get_settings().folder("runs", name) / f"{version}-seed{seed}"
    if out.exists():
        shutil.rmtree(out)
    return out


def described(bundle: Bundle, settings: dict[str, Any], history: list[dict[str, float]]) -> dict[str, Any]:
    """A bundle as tasks hand it on: its folder and digest, settings, curves per epoch, `val_*` figures."""
    return {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "settings": settings,
        "history": history,
        "metrics": dict(bundle.metadata.performance_metrics),
    }


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
    result = train_bundle(
        kind,
        settings,
        load(train),
        load(validation),
        name=name,
        version=version,
        out=fresh_folder(name, version, settings.seed),
        author=get_settings().author,
        description=description,
        dataset=dataset,
        split=split,
        held_out=held_out or [],
        progress=current(),
    )
    return described(result.bundle, settings.model_dump(mode="json"), result.history)
