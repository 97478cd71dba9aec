"""A person's override: a version goes up although the rules say no, or can't be asked.

It is the only way around a rule. It takes a reason and an end, asks the rules all the same and records what they really
said, and pins the version in Production until the end. What it never waives: the bundle is what was registered and
reproduces its golden rows (integrity and parity, checked whenever a bundle is opened), its schema can take the place of
the one in Production, the version wasn't withdrawn, and the model isn't frozen.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from robustidps.errors import DatasetError, InputError, NotFoundError, RefusedError
from robustidps.judging import ORDER, gather, recorded

if TYPE_CHECKING:
    from robustidps.registry.ledger import Decision
    from robustidps.registry.registry import ModelRegistry

__all__ = ["override"]


def override(
    registry: ModelRegistry,
    name: str,
    version: str,
    stage: str = "Production",
    *,
    reason: str,
    until: datetime,
    actor: str | None = None,
    actor_source: str | None = None,
    **options: Any,
) -> Decision:
    """Moves a version to `stage` whatever the rules say; options as for `judging.gather`.

    Args:
        until: aware; the end of the pin.

    Raises:
        InputError: no reason, no such stage or version.
        BundleError, LedgerError: not what was registered, or it doesn't reproduce its golden rows.
        RefusedError: its schema can't replace the one in Production; it was withdrawn; the model is frozen.
        ConflictError: it is there already, or somebody else moved the model meanwhile.
    """
    if stage not in ORDER:
        raise InputError(f"no stage {stage!r}", remedy=f"known: {', '.join(ORDER)}")
    if not reason.strip():
        raise InputError("an override needs a reason", where=f"{name} {version}", remedy="--reason TEXT")
    generation = registry.assignment(name).generation
    bundle = registry.bundle(name, version)
    incumbent = registry.assignment(name).production
    if incumbent and incumbent != version:
        differs = bundle.schema.compatible_with(registry.bundle(name, incumbent).schema)
        if differs:
            raise RefusedError(
                f"no override lets it take the place of {incumbent}: {'; '.join(differs)}", where=f"{name} {version}"
            )
    verdict: Any
    evidence: dict[str, Any] = {}
    try:
        case = gather(registry, name, version, **options)
        verdict, evidence = case.verdict(stage), recorded(case)
    except (NotFoundError, DatasetError) as error:  # the rules couldn't be asked: that is what is recorded
        verdict = {"outcome": "hold", "reasons": [str(error)]}
    return registry.transition(
        name,
        version,
        stage,
        verdict=verdict,
        reason=reason,
        evidence=evidence,
        override_until=until,
        expected_generation=generation,
        actor=actor,
        actor_source=actor_source,
    )
