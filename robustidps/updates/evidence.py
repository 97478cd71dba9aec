"""What a site measures by itself before an update may serve, and what of an update's requirements is met here.

The publisher's figures are shown and never believed. The best evidence is *labelled*: a benchmark that was pinned here
(`pin`), else the traffic that the version in production was registered with. The next best is *unlabelled*: recent
traffic, on which an update can be held against production. With neither there is *none*, and no rule set that asks
before Production can be met. `measure` gathers all of it for a bundle that isn't registered; which of it decides is a
matter of the rules (`configs/promotion/auto_update*.yaml`).

A pin is `HOME/updates/benchmarks/MODEL.json`, signed with the installation's key; the rows lie beside it by digest,
and are never changed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import DatasetError, IntegrityError, MissingExtraError, NotFoundError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import check_name, writable

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.judging import Case
    from robustidps.promotion import RuleSet
    from robustidps.registry.registry import ModelRegistry
    from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Benchmark", "benchmark", "measure", "pin", "pinned", "unmet", "unpin"]

_SHOWN = 120
_FACTS = ("path", "digest", "dataset", "evaded")


@dataclass(frozen=True)
class Benchmark:
    """Labelled traffic that updates of a model are judged on here.

    path, digest, evaded: as `register_model(held_out=..)` takes them. by, by_source: who pinned it, and how that is
    known. at: when, ISO 8601, UTC.
    """

    model: str
    path: str
    digest: str
    dataset: str
    rows: int
    evaded: dict[str, str] | None
    by: str
    by_source: str
    at: str

    @property
    def held_out(self) -> dict[str, Any]:
        """What a version that is judged on it is registered with."""
        facts = {"path": self.path, "digest": self.digest, "dataset": self.dataset}
        return facts | ({"evaded": self.evaded} if self.evaded else {})


def pin(
    registry: ModelRegistry,
    name: str,
    path: Path,
    *,
    evaded: Path | None = None,
    dataset: str | None = None,
    actor: str | None = None,
    actor_source: str | None = None,
) -> Benchmark:
    """Has updates of a model judged on this traffic from now on; the rows are copied, and theirs is the digest.

    Args:
        path: labelled traffic, Parquet. evaded: its attacks altered to evade.
        dataset: what it is called in records; default: what the file says of itself.

    Raises:
        NameInvalidError. DatasetError: not traffic, without a label, or not of the schema in production.
        StorageError.
    """
    from robustidps.evaluation.evasion import evaded_digest
    from robustidps.registry.records import acting
    from robustidps.traffic.trafficset import TrafficSet

    file = _file(registry, name)
    traffic = TrafficSet.read(Path(path))
    if not traffic.labelled.any():
        raise DatasetError("no row has a label", where=path, remedy="pin traffic that somebody labelled")
    altered = None if evaded is None else TrafficSet.read(Path(evaded))
    _same_schema(registry, name, traffic, Path(path))
    kept = _kept(traffic, file.with_name(f"{traffic.digest}.parquet"))
    beside = None
    if altered is not None:
        _same_schema(registry, name, altered, Path(str(evaded)))
        digest = evaded_digest(altered)
        beside = {"path": str(_kept(altered, file.with_name(f"evaded-{digest}.parquet"))), "digest": digest}
    who, source = acting(actor, actor_source)
    made = Benchmark(
        model=name,
        path=str(kept),
        digest=traffic.digest,
        dataset=str(dataset or traffic.provenance.get("dataset") or Path(path).stem),
        rows=int(traffic.labelled.sum()),
        evaded=beside,
        by=who,
        by_source=source,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(registry, file, made)
    return made


def pinned(registry: ModelRegistry, name: str) -> Benchmark | None:
    """The benchmark that is pinned for a model; None where none is.

    Raises:
        IntegrityError: the pin was edited, or is another installation's.
    """
    file = _file(registry, name)
    try:
        content = json.loads(file.read_bytes())
        facts, key_id, signature = content["pin"], content["key_id"], content["signature"]
        found = Benchmark(**facts)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise IntegrityError("is not a pin", where=file, remedy="pin the benchmark anew") from None
    problem = registry.ledger.key.problem_with(_payload(found), str(key_id), str(signature))
    if problem is None and found.model != name:
        problem = f"is a pin of {printable(found.model, 80)}"
    if problem is not None:
        raise IntegrityError(f"the pin {problem}", where=file, remedy="pin the benchmark anew")
    return found


def unpin(registry: ModelRegistry, name: str) -> bool:
    """Has updates judged on what production was registered with again; true if something was pinned.

    The rows stay: versions that were judged on them name them.
    """
    file = _file(registry, name)
    there = file.is_file()
    with writable(file):
        file.unlink(missing_ok=True)
    return there


def benchmark(registry: ModelRegistry, name: str) -> dict[str, Any] | None:
    """What updates of a model are judged on, as `register_model(held_out=..)` takes it: what is pinned, else what the
    version in production was registered with; None where there is neither.

    Raises:
        IntegrityError: the pin or the ledger was edited.
    """
    if (chosen := pinned(registry, name)) is not None:
        return chosen.held_out
    try:
        recorded = registry.resolve(name, "production").held_out or {}
    except NotFoundError:
        return None
    kept: dict[str, Any] = {key: recorded[key] for key in _FACTS if key in recorded}
    return kept if kept.get("path") else None


def measure(
    registry: ModelRegistry,
    bundle: Bundle,
    *,
    rules: str | RuleSet = "auto_update",
    traffic: TrafficSet | None = None,
    evaded: TrafficSet | None = None,
    recent: Path | None = None,
    requirements: Sequence[str] | None = None,
    validations: Mapping[str, bool] | None = None,
    progress: Progress = silent,
) -> Case:
    """Measures a verified bundle that is not registered yet, and what is in production, on the same rows of this site.

    Args:
        bundle: opened, and past its golden rows; it may lie in quarantine.
        rules: a rule set, or its name. Recent traffic is looked at where they ask for it, or no row is labelled.
        traffic: labelled traffic; default: `benchmark`. evaded: its attacks altered to evade; default: likewise.
        recent: a file or folder of recent traffic; default: HOME/incoming/NAME, else HOME/incoming.
        requirements: what has to be installed; default: what the bundle names. `unmet` says what is missing.
        validations: answers of the caller's own checks, by name; each is one rule more.

    Returns:
        The case; its `tier` says what there was to judge on, and `verdict(stage)` asks the rules.

    Raises:
        NotFoundError: the benchmark is gone. IntegrityError: it, the pin or the ledger was edited.
        DatasetError, SchemaError: traffic that the bundle can't be asked about. ConfigError: no such rules.
    """
    from robustidps import judging
    from robustidps.monitoring.unlabelled import moved
    from robustidps.rules import LABEL_FREE

    name = bundle.metadata.name
    chosen = judging.rule_set(rules) if isinstance(rules, str) else rules
    dataset = None
    # No row of this site can be asked of a schema that breaks with production's; the rules say what that means.
    broken = traffic is None and recent is None and _breaks(registry, bundle)
    if traffic is None and not broken and (facts := benchmark(registry, name)) is not None:
        who, home = f"updates of {name}", registry.settings.home
        traffic, dataset = judging.read_held_out(facts, who, home=home), facts.get("dataset")
        evaded = evaded if evaded is not None else judging.read_evaded(facts, who, home=home)
    kinds = {rule.kind for rule in chosen.rules}
    newest = None
    if not broken and (recent is not None or traffic is None or kinds & LABEL_FREE):
        newest = judging.recent_traffic(registry, bundle, recent, progress=progress)
    drift_share = None
    if newest is None and traffic is not None and "drift_ceiling" in kinds:
        found = moved(bundle, traffic.features)
        drift_share = None if found is None else len(found) / bundle.schema.input_dim
    wanted = bundle.metadata.requirements if requirements is None else requirements
    return judging.measured(
        registry,
        bundle,
        rules=chosen,
        held_out=traffic,
        evaded=evaded,
        dataset=dataset,
        recent=newest,
        drift_share=drift_share,
        validations={"requirements": not unmet(wanted), **(validations or {})},
        progress=progress,
    )


def unmet(requirements: Iterable[str]) -> list[str]:
    """Which requirements aren't met by what is installed: a sentence each, with the command that would help.

    Nothing is ever installed. One that isn't a plain requirement, or names an address to install from, is never met.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        raise MissingExtraError("packaging", "updates") from None
    missing = []
    for text in requirements:
        shown = printable(str(text), _SHOWN)
        try:
            wanted = Requirement(str(text))
        except InvalidRequirement:
            missing.append(f"{shown!r} is not a requirement")
            continue
        if wanted.url is not None:
            missing.append(f"{shown!r} names an address to install from, which is refused")
        elif (why := _lacking(wanted)) is not None:
            missing.append(f"{shown} {why}: pip install {shlex.quote(printable(str(wanted), _SHOWN))}")
    return missing


def _lacking(wanted: Any) -> str | None:
    """Why a requirement isn't met; None where it is. Of an extra, what it adds has to be there too."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import InvalidRequirement, Requirement

    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    try:
        found = distribution(wanted.name)
    except (PackageNotFoundError, ValueError):
        return "is not installed"
    if not wanted.specifier.contains(found.version, prereleases=True):
        return f"is not met by {found.version}, which is installed"
    for extra in sorted(wanted.extras):
        if extra not in (found.metadata.get_all("Provides-Extra") or []):
            return f"asks for {extra}, which {found.version} doesn't have"
        for line in found.requires or []:
            try:
                more = Requirement(line)
            except InvalidRequirement:
                continue  # of what is installed already
            only = more.marker
            if only is None or only.evaluate({"extra": ""}) or not only.evaluate({"extra": extra}):
                continue
            more.marker = None
            if not more.extras and (why := _lacking(more)) is not None:
                return f"needs {more}, which {why}"
    return None


def _breaks(registry: ModelRegistry, bundle: Bundle) -> bool:
    try:
        served = registry.bundle(bundle.metadata.name, "production").schema
    except NotFoundError:
        return False
    return bool(bundle.schema.compatible_with(served, allow_more_classes=True))


def _same_schema(registry: ModelRegistry, name: str, traffic: TrafficSet, path: Path) -> None:
    try:
        served = registry.bundle(name, "production").schema
    except NotFoundError:
        return
    if traffic.schema.compatible_with(served, allow_more_classes=True):
        raise DatasetError(f"is traffic of schema {traffic.schema.name}, {name} is of {served.name}", where=path)


def _file(registry: ModelRegistry, name: str) -> Path:
    return registry.settings.folder("updates", "benchmarks") / f"{check_name(name)}.json"


def _kept(traffic: TrafficSet, path: Path) -> Path:
    """The rows at `path`, whose name is their digest; written once."""
    if not path.is_file():
        traffic.write(path)
        with writable(path):
            path.chmod(0o444)
    return path


def _payload(content: Benchmark) -> bytes:
    return b"robustidps.pin\n" + json.dumps(asdict(content), sort_keys=True, separators=(",", ":")).encode()


def _write(registry: ModelRegistry, file: Path, made: Benchmark) -> None:
    from robustidps.registry.keys import write_atomically

    key_id, signature = registry.ledger.key.sign(_payload(made))
    content = {"pin": asdict(made), "key_id": key_id, "signature": signature}
    write_atomically(file, json.dumps(content, indent=2).encode() + b"\n")
