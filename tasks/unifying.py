"""The task that makes one model of several registered versions and writes its bundle."""

from __future__ import annotations

from typing import Any

from prefect import task

from robustidps.progress import current
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import get_settings
from robustidps.tasks.options import PLAIN
from robustidps.tasks.references import load
from robustidps.tasks.training import described, fresh_folder
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
    bundle = unify(
        members_of(ModelRegistry(settings=installation), members),
        load(train),
        load(validation),
        name=name,
        version=version,
        out=fresh_folder(name, version),
        author=installation.author,
        description=description,
        dataset=dataset,
        split=split,
        progress=current(),
    )
    facts = bundle.metadata.training
    return described(bundle, facts.settings if facts else {}, [])
