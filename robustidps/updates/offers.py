"""Which of the versions on offer are updates here, and why the others aren't. Reads the remote registry and our ledger.

An update is a version newer than what is in production, signed by the role of the family that the model here is of.
The updater leaves alone what a person has decided about: a version that was rolled back, refused, withdrawn or archived
here isn't offered again unless its bundle is another one, and one that was in production before is never put back. One
that was only held (something was missing) is looked at again where nothing else is on offer. What the publisher says of
it is shown beside what was measured here, where that has happened; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from robustidps.errors import NotFoundError, printable
from robustidps.progress import Progress, silent
from robustidps.registry.ledger import Decision
from robustidps.registry.metadata import version_key
from robustidps.registry.stages import HARDWARE, TURNED_AWAY
from robustidps.updates.naming import OTHER, stated

if TYPE_CHECKING:
    from robustidps.registry.records import VersionRecord
    from robustidps.registry.registry import ModelRegistry
    from robustidps.updates.client import Offer, RemoteRegistry

__all__ = ["UPDATER", "Update", "again", "asked_about", "check", "survey"]

UPDATER = "auto-update"
"""Who the updater is in the ledger, and how that is known; a registration's actor is the publisher."""


@dataclass(frozen=True)
class Update(Mapping[str, Any]):
    """A version on offer, beside what is in production here; its fields can be read as subscripts too.

    current_version: in production here; None where nothing is. performance_metrics: the publisher's figures, and
        `accuracy_gain`, by which its accuracy is over that of the version in production, in percent of the latter,
        both as their trainers measured them; None where either didn't say.
    measured: the improvement as it was measured here, a sentence; None before that.
    why_not: why the updater leaves it alone; None where it doesn't. waiting: it is in Staging here already.
    held: it was turned away before, for want of something that may have come since.
    """

    name: str
    current_version: str | None
    new_version: str
    performance_metrics: Mapping[str, float | None]
    offer: Offer = field(repr=False)
    measured: str | None = None
    why_not: str | None = None
    waiting: bool = False
    held: bool = False

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.as_dict())

    def __len__(self) -> int:
        return len(self.as_dict())

    def __str__(self) -> str:
        gain = self.performance_metrics["accuracy_gain"]
        claimed = self.performance_metrics.get("accuracy")
        alone = "accuracy not stated" if claimed is None else f"accuracy {claimed:.3f} as stated"
        said = alone if gain is None else f"accuracy {gain:+.1f} %"
        here = f" (re-measured here: {self.measured})" if self.measured else ""
        return f"{self.name}: {self.current_version or 'none'} -> {self.new_version}, {said}{here}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able content."""
        plain = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "offer"}
        offered = asdict(self.offer) | {"created_at": self.offer.created_at.isoformat()}
        return plain | {"performance_metrics": dict(self.performance_metrics), "offer": offered}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Update:
        """From what `as_dict` gave."""
        from robustidps.updates.client import Offer

        offer = dict(content["offer"])
        offer |= {"keys": tuple(offer["keys"]), "created_at": datetime.fromisoformat(offer["created_at"])}
        return cls(**{**content, "offer": Offer(**offer)})


@dataclass(frozen=True)
class _Here:
    """What is known here about one model."""

    production: str | None
    family: str | None
    accuracy: float | None
    decisions: Sequence[Decision]
    versions: Mapping[str, VersionRecord]


def asked_about(registry: ModelRegistry, names: Iterable[str] | None = None) -> list[str]:
    """`names`; all models that are registered here where none are given."""
    return [m.name for m in registry.models() if m.versions] if names is None else list(names)


def survey(
    registry: ModelRegistry, remote: RemoteRegistry, names: Iterable[str] | None = None, *, progress: Progress = silent
) -> list[Update]:
    """Every version on offer of the models that are registered here, or of `names`; by model, lowest first.

    Raises:
        UpdateError: the remote registry can't be trusted. RemoteUnavailableError: it doesn't answer.
        LedgerError: our own ledger was edited. NotFoundError: one of `names` is neither registered here nor on offer.
    """
    here = {name: _here(registry, name) for name in asked_about(registry, names)}
    families = {name: facts.family for name, facts in here.items()}
    known = {name: family for name, family in families.items() if family}
    # A model that isn't here yet may be of any family.
    offers = [
        offer
        for offer in remote.offers(known if len(known) == len(families) else None, progress=progress)
        if offer.name in here and here[offer.name].family in (None, offer.family)
    ]
    for name in sorted(here.keys() - {offer.name for offer in offers}):
        if not here[name].versions:
            raise NotFoundError("no such model is registered here or on offer", where=printable(name, 120))
    of: dict[str, set[str]] = {}
    for offer in offers:
        of.setdefault(offer.name, set()).add(offer.family)
    return [
        _update(here[offer.name], offer, of[offer.name])
        for offer in sorted(offers, key=lambda o: (o.name, version_key(o.version)))
    ]


def check(
    registry: ModelRegistry, remote: RemoteRegistry, names: Iterable[str] | None = None, *, progress: Progress = silent
) -> list[Update]:
    """The newest update of each model that nothing speaks against; one that was held before only where there is no
    other. Downloads no model. Raises as `survey`."""
    newest: dict[str, Update] = {}
    for update in survey(registry, remote, names, progress=progress):
        before = newest.get(update.name)
        if update.why_not is None and (before is None or before.held or not update.held):
            newest[update.name] = update
    return list(newest.values())


def again(registry: ModelRegistry, update: Update) -> Update:
    """The same offer, as it is seen after what was decided here meanwhile. Raises LedgerError."""
    return _update(_here(registry, update.name), update.offer, {update.offer.family})


def _here(registry: ModelRegistry, name: str) -> _Here:
    try:
        versions = {record.version: record for record in registry.versions(name)}
    except NotFoundError:
        return _Here(None, None, None, registry.checked_history(name), {})
    decisions = registry.checked_history(name)
    production = registry.assignment(name).production
    registered = {d.version: d.evidence for d in decisions if d.action == "register"}
    newest = next(reversed(registered.values()), None)
    served = registered.get(production, newest)  # whose publisher speaks for it, whatever else has its name
    family = None if served is None else str(served.get("family") or OTHER)
    accuracy = stated(registered.get(production, {}).get("performance_metrics", {})).get("accuracy")
    return _Here(production, family, accuracy, decisions, versions)


def _update(here: _Here, offer: Offer, families: set[str]) -> Update:
    claimed = offer.metrics.get("accuracy")
    gain = None if claimed is None or not here.accuracy else 100 * (claimed - here.accuracy) / here.accuracy
    record = here.versions.get(offer.version)
    last = next((d for d in reversed(here.decisions) if _about(d, offer)), None)
    return Update(
        name=offer.name,
        current_version=here.production,
        new_version=offer.version,
        performance_metrics={**offer.metrics, "accuracy_gain": None if gain is None else round(gain, 2)},
        offer=offer,
        measured=_measured(here.decisions, offer),
        why_not=_why_not(here, offer, record) if len(families) == 1 else _whose(families),
        waiting=record is not None and record.stage == "Staging" and record.digest == offer.digest,
        held=last is not None and last.action == TURNED_AWAY and last.verdict != "reject",
    )


def _why_not(here: _Here, offer: Offer, record: VersionRecord | None) -> str | None:
    """What speaks against taking it by itself."""
    key = version_key(offer.version)
    if here.production is not None and key <= version_key(here.production):
        return f"is not newer than {here.production} in production"
    if key.prerelease:
        return "is a pre-release"
    for entry in reversed(here.decisions):
        if _about(entry, offer) and entry.verdict == "reject" and entry.to_stage not in HARDWARE:
            return f"was refused on {entry.time:%Y-%m-%d}: {printable('; '.join(entry.reasons), 200)}"
    if record is None:
        return None
    if record.status == "reserved":  # for this very bundle: by a run that was cut short, which can go on
        return None if record.digest == offer.digest else "its number is taken here by a training"
    if record.digest != offer.digest:
        return "its number is taken here by another model"
    if record.status == "withdrawn":
        return "was withdrawn here"
    for entry in reversed(here.decisions):
        if entry.action == "rollback" and entry.from_version == offer.version:
            return f"was rolled back on {entry.time:%Y-%m-%d} by {entry.actor}"
        if entry.action == "promote" and entry.version == offer.version and entry.to_stage == "Production":
            return f"was in production from {entry.time:%Y-%m-%d} on, and was replaced"
        if entry.action == "archive" and entry.version == offer.version and entry.actor_source != UPDATER:
            return f"was archived on {entry.time:%Y-%m-%d} by {entry.actor}"
    return None


def _whose(families: set[str]) -> str:
    return f"is offered by several families, and none of them is here: {', '.join(sorted(families))}"


def _about(entry: Decision, offer: Offer) -> bool:
    """Whether a decision refused this very bundle."""
    refused = entry.action in (TURNED_AWAY, "refuse")
    return refused and entry.version == offer.version and entry.bundle_digest in (offer.digest, None)


def _measured(decisions: Sequence[Decision], offer: Offer) -> str | None:
    """The improvement that our own measurement of this very bundle showed."""
    for entry in reversed(decisions):
        if entry.version == offer.version and entry.bundle_digest == offer.digest:
            said = entry.evidence.get("update", {}).get("measured")
            if said:
                return str(said)
    return None
