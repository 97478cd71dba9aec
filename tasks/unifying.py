"""The task that makes one model of several registered versions and writes its bundle."""

from __future__ import annotations

import shutil
from typing import Any

from prefect import task

from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN
from robustidps.tasks.references import load
from robustidps.unified import members_of, unify

__all__ = ["unify_members"]


@task(name="unify members", **PLAIN)
def unify_members(
    members: list[str],
    train: dict[str, Any],
    validation: dict[str, Any],
    *,
    name: str,
    version: str,
    dataset: str,
    split: str,
    description: str = "",
) -> dict[str, Any]:
    """Weighs the members on validation traffic and merges them; gives what `train_model` gives."""
    installation = get_settings()
    out = installation.folder("runs", name) / f"{version}-seed0"
    if out.exists():  # left by a run that was ended before it registered this number
        shutil.rmtree(out)
    bundle = unify(
        members_of(ModelRegistry(settings=installation), members),
        load(train),
        load(validation),
        name=name,
        version=version,
        out=out,
        author=installation.author,
        description=description,
        dataset=dataset,
        split=split,
        progress=current(),
    )
    facts = bundle.metadata.training
    return {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "settings": facts.settings if facts else {},
        "history": [],
        "metrics": dict(bundle.metadata.performance_metrics),
    }
