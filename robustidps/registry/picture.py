"""MLflow's picture of a model: as it should be, as it is, and what differs. Pure, but for `read`.

`Wanted` follows from the decisions and the version table. Once all of it has been drawn, whatever differs was changed
by a person (or by somebody's script): each difference is a `Request`, which `reconciler.py` answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from robustidps.errors import printable
from robustidps.registry.ledger import Decision
from robustidps.registry.stages import MOVES
from robustidps.registry.tracking import TAG, Tracking

__all__ = [
    "ANSWER",
    "Picture",
    "Request",
    "Shown",
    "Wanted",
    "answers",
    "differences",
    "read",
    "read_part",
    "requested",
]

ANSWER = f"{TAG}answer"
LEDGER = f"{TAG}ledger"
PAGE = 200_000
"""Versions that are read at once; the most that MLflow gives."""
# Tags of ours that follow from the decisions; others are written once and mean nothing.
KEPT = (f"{TAG}version", f"{TAG}digest", f"{TAG}family", f"{TAG}stage", ANSWER)


@dataclass(frozen=True)
class Wanted:
    """What MLflow should show of a model.

    aliases: the version of ours that each alias is on, None where it is on none.
    numbers, tags, stages, runs: of each version, MLflow's number, our tags, its old stage and the run it came from.
    end: the ledger's last row of this model; ends: all that there have been.
    """

    generation: int
    aliases: Mapping[str, str | None]
    numbers: Mapping[str, int]
    tags: Mapping[str, Mapping[str, str]]
    stages: Mapping[str, str]
    end: str = ""
    ends: frozenset[str] = frozenset()
    runs: Mapping[str, str] = field(default_factory=dict)

    def version_of(self, number: str | None) -> str | None:
        """Our version that MLflow's `number` is."""
        return next((v for v, n in self.numbers.items() if str(n) == str(number)), None)

    def present(self, picture: Picture) -> dict[str, int]:
        """`numbers` of those that are there: a deleted one's number may have gone to a stranger, of another run."""
        shown = {number: version.run_id for number, version in picture.versions.items()}
        return {v: n for v, n in self.numbers.items() if str(n) in shown and shown[str(n)] == self.runs.get(v)}


@dataclass(frozen=True)
class Shown:
    """One version as MLflow has it."""

    stage: str
    tags: Mapping[str, str]
    run_id: str | None = None


@dataclass(frozen=True)
class Picture:
    """A model as MLflow has it: aliases to MLflow's numbers, versions by MLflow's number."""

    aliases: Mapping[str, str]
    versions: Mapping[str, Shown]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """Something that a person changed.

    kind: `alias` (set, or moved), `alias-deleted`, `stage`, `tag`, `model-tag`; `version-deleted`, `renamed` and
        `model-deleted` where the thing itself is gone.
    what: the alias, the stage asked for, or the tag's name. number: MLflow's number of the version it is about.
    found: what is there now.
    """

    kind: str
    what: str = ""
    number: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        about = f"MLflow version {self.number}"
        return {
            "alias": f"alias {self.what} set to {about}",
            "alias-deleted": f"alias {self.what} deleted",
            "stage": f"{about} moved to stage {self.what}",
            "tag": f"tag {self.what} of {about} edited",
            "model-tag": f"tag {self.what} of the model edited",
            "version-deleted": f"{about} deleted",
            "renamed": f"model renamed to {self.found}",
            "model-deleted": "model deleted",
        }[self.kind]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def requested(decision: Decision) -> Request | None:
    """The request from MLflow that a decision answers."""
    facts = decision.evidence.get("request")
    if not isinstance(facts, dict):
        return None
    return Request(facts["kind"], facts["what"], facts["number"], facts["found"])


def answers(decisions: Iterable[Decision], before: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """By version: what became of the last thing that was asked for in MLflow, until the version moves again.

    Args:
        before: the same up to the first of `decisions`.
    """
    found = dict(before)
    for entry in decisions:
        request = requested(entry)
        if request is not None and entry.version:
            again = "lost" if entry.verdict == "lost" else "made again"
            kept = {"refuse": "put back", "restore": again}.get(entry.action, "kept")
            why = f" ({'; '.join(entry.reasons)})" if entry.reasons else ""
            found[entry.version] = printable(f"{entry.time:%Y-%m-%d %H:%M} UTC, {request}: {kept}{why}", 1000)
        elif entry.action in MOVES and entry.version:
            found.pop(entry.version, None)
    return found


def read(client: Any, name: str) -> Picture:
    """The model as MLflow has it. Call it inside `Tracking.errors()`; raises NotFoundError where it is gone."""
    model = client.get_registered_model(name)
    versions: dict[str, Shown] = {}
    token = None
    while True:
        # MLflow lists the last changed first; one that is changed meanwhile would be missed, and look deleted.
        page = client.search_model_versions(
            f"name = '{name}'", max_results=PAGE, order_by=["version_number ASC"], page_token=token
        )
        versions |= {str(v.version): Shown(v.current_stage or "None", dict(v.tags), v.run_id) for v in page}
        token = page.token
        if not token:
            break
    aliases = {str(alias): str(number) for alias, number in dict(model.aliases).items()}
    return Picture(aliases, versions, dict(model.tags))


def read_part(tracking: Tracking, name: str, aliases: Iterable[str], numbers: Iterable[int]) -> Picture:
    """Of the model as MLflow has it, these aliases and versions: what it has of many versions takes it long to list."""
    found = tracking.versions(name, numbers)
    versions = {n: Shown(v.current_stage or "None", dict(v.tags), v.run_id) for n, v in found.items()}
    return Picture(tracking.aliases(name, aliases), versions)


def differences(wanted: Wanted, picture: Picture) -> list[Request]:
    """What a person changed, in the order in which it is answered: what leads up first, by alias before by stage."""
    found = [*_aliases(wanted, picture), *_stages(wanted, picture), *_tags(wanted, picture)]
    return sorted(found, key=_rank)


def _rank(request: Request) -> int:
    up = {("alias", "production"): 0, ("stage", "Production"): 1, ("alias", "staging"): 2, ("stage", "Staging"): 3}
    return up.get((request.kind, request.what), 4)


def _aliases(wanted: Wanted, picture: Picture) -> Iterator[Request]:
    present = wanted.present(picture)
    for alias, version in wanted.aliases.items():
        number = present.get(version) if version else None
        actual = picture.aliases.get(alias)
        if actual is None and number is not None:
            yield Request("alias-deleted", alias, str(number))
        elif actual is not None and actual != str(number):
            yield Request("alias", alias, actual, actual)


def _stages(wanted: Wanted, picture: Picture) -> Iterator[Request]:
    for version, number in wanted.present(picture).items():
        shown = picture.versions[str(number)].stage
        if shown != wanted.stages[version]:
            yield Request("stage", shown, str(number), shown)


def _tags(wanted: Wanted, picture: Picture) -> Iterator[Request]:
    for version, number in wanted.present(picture).items():
        shown, tags = picture.versions[str(number)].tags, wanted.tags[version]
        for key in KEPT:
            if (actual := shown.get(key)) != tags.get(key):
                yield Request("tag", key, str(number), None if actual is None else printable(actual, 200))
    end = picture.tags.get(LEDGER)
    if wanted.ends and end not in wanted.ends and (end is not None or wanted.generation):
        yield Request("model-tag", LEDGER, None, None if end is None else printable(end, 200))
