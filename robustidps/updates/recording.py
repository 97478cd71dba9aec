"""An update and our ledger: what was decided here that stands in its way, and what of it goes on record, once.

    held_back   why nothing of a model may move now        still       that nothing was decided meanwhile
    refuse      an offer or a version, with the reasons    on_record   ... for an error within a block
    distrust    the remote registry as a whole             provenance, evidence_of   what a record keeps

Whatever is refused is in the ledger with its reasons: `turn_away` before it became a version here, `refuse` after.
What the signed bundle itself is refused for counts for good (`reject`); what a mirror sends, or what is missing or
damaged here, may be better the next time (`hold`). Decisions of the schedule are the updater's; those about a version
that a person asked for by name are that person's (`asked`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from robustidps.errors import ConflictError, IntegrityError, LedgerError, NotFoundError, RefusedError, UpdateError
from robustidps.registry.stages import TURNED_AWAY
from robustidps.updates.offers import UPDATER, Update, again

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = [
    "decided_by",
    "distrust",
    "evidence_of",
    "generation_of",
    "held_back",
    "known_here",
    "on_record",
    "provenance",
    "refuse",
    "still",
]

_FIGURES = re.compile(r"\w*\d[\w.,:]*")


def held_back(registry: ModelRegistry, name: str, version: str | None = None) -> str | None:
    """Why the updater may put nothing of this model into Staging or Production now: it is frozen, a person's override
    is pinned, or a version that somebody else has put into Staging waits there; `version` itself doesn't count."""
    try:
        stands = registry.frozen(name) or registry.pinned(name)
    except NotFoundError:
        return None  # a model that isn't here yet
    if stands is not None:
        return str(stands)
    there = registry.assignment(name).staging
    if there in (None, version):
        return None
    moved = [d for d in registry.checked_history(name) if d.action == "promote" and d.to_stage == "Staging"]
    put = moved[-1]
    if put.actor_source == UPDATER:
        return None
    return f"{there} waits in Staging, where {put.actor} has put it on {put.time:%Y-%m-%d}: promote or archive it"


def still(registry: ModelRegistry, update: Update) -> int:
    """The generation of the assignment that everything from here on is judged from.

    Raises:
        ConflictError: something was decided since the offer was looked at, which may have been a while ago.
    """
    generation = generation_of(registry, update.name)
    now = again(registry, update)
    changed = None
    if now.why_not is not None and now.why_not != update.why_not:
        changed = now.why_not
    elif now.waiting != update.waiting:
        changed = "was moved"
    if changed is not None:
        raise ConflictError(
            f"meanwhile: {changed}", where=f"{update.name} {update.new_version}", remedy="look for updates again"
        )
    return generation


@contextmanager
def on_record(registry: ModelRegistry, update: Update, asked: bool, verdict: str = "hold") -> Iterator[None]:
    """Puts into the ledger why an offer was refused within the block; the error goes on.

    verdict: of what isn't what it claims to be. What is missing here may always come.
    """
    try:
        yield
    except LedgerError:
        raise
    except (IntegrityError, RefusedError) as error:
        kind = verdict if isinstance(error, IntegrityError) else "hold"
        refuse(registry, update, (str(error),), asked=asked, verdict=kind)
        raise


def refuse(
    registry: ModelRegistry,
    update: Update,
    reasons: tuple[str, ...],
    *,
    asked: bool,
    verdict: str,
    stage: str = "Staging",
    evidence: Mapping[str, Any] | None = None,
    rule_set: str | None = None,
) -> None:
    """Once for each answer: a schedule that comes upon the same thing again adds nothing."""
    name, version, digest = update.name, update.new_version, update.offer.digest
    said = [d for d in registry.checked_history(name) if d.version == version and d.bundle_digest == digest]
    last = next((d for d in reversed(said) if d.action in (TURNED_AWAY, "refuse")), None)
    if last is not None and last.verdict == verdict and _alike(last.reasons, reasons, verdict):
        return
    facts: dict[str, Any] = {"rule_set": rule_set, **decided_by(asked)}
    if known_here(registry, update):
        answer = {"outcome": verdict, "reasons": reasons}
        registry.record_refusal(name, version, stage, verdict=answer, evidence=evidence, **facts)
        return
    more = {"digest": digest, "provenance": provenance(update), **(evidence or {})}
    registry.turn_away(name, version, reasons=reasons, evidence=more, verdict=verdict, **facts)


def _alike(before: tuple[str, ...], now: tuple[str, ...], verdict: str) -> bool:
    """Whether reasons are the same. In a hold figures may differ: of recent flows, say, there are others each time."""
    if verdict == "reject":
        return before == now
    return [_FIGURES.sub("#", text) for text in before] == [_FIGURES.sub("#", text) for text in now]


def decided_by(asked: bool) -> dict[str, Any]:
    """Who acts, as methods of `ModelRegistry` take it: whoever is at this process, or the updater."""
    return {} if asked else {"actor": UPDATER, "actor_source": UPDATER}


def known_here(registry: ModelRegistry, update: Update) -> bool:
    """Whether it is a version here, rather than a number that is reserved at most."""
    try:
        return registry.version(update.name, update.new_version).status != "reserved"
    except NotFoundError:
        return False


def provenance(update: Update) -> dict[str, Any]:
    """Where the bundle is from: its target, by whom it was signed, what sent it, what is said of it."""
    offer = update.offer
    return {
        "target": f"{offer.family}/{offer.name}/{offer.version}/bundle.tar",
        "sha256": offer.sha256,
        "mirror": offer.mirror,
        "keys": list(offer.keys),
        "metadata_version": offer.metadata_version,
        "root_version": offer.root_version,
        "stated": dict(offer.metrics),
    }


def evidence_of(update: Update, judged: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger keeps: the evidence, what each rule said, where the bundle is from."""
    rules = [{"text": result["text"], "passed": result["passed"]} for result in verdict["results"]]
    kept = {"tier": judged["tier"], "measured": judged["measured"], "stated": dict(update.offer.metrics)}
    return {**judged["evidence"], "rules": rules, "update": kept | {"provenance": provenance(update)}}


def distrust(registry: ModelRegistry, names: Iterable[str], error: UpdateError) -> None:
    """Puts into each model's ledger that the remote registry as a whole can't be trusted, once for each reason."""
    reasons = (str(error),)
    for name in names:
        said = [d for d in registry.checked_history(name) if d.action == TURNED_AWAY and d.version is None]
        if not said or not _alike(said[-1].reasons, reasons, said[-1].verdict):
            registry.turn_away(name, None, reasons=reasons, verdict="hold", **decided_by(False))


def generation_of(registry: ModelRegistry, name: str) -> int:
    """What `transition` compares; 0 for a model that isn't here yet."""
    try:
        return registry.assignment(name).generation
    except NotFoundError:
        return 0
