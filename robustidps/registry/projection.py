"""MLflow's aliases, tags and old stages as a picture of the state.

After each move the picture is brought up to date, in this order: `previous`, `production`, `staging`, `loihi`, tags and
stages, and last the assignment's `applied_generation`. If that is cut short, `applied_generation` stays behind, and
whoever comes next completes it. Nothing here decides anything, and nothing reads the picture to decide; what a person
changed in it is answered by `reconciler.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from robustidps.registry import state
from robustidps.registry.ledger import Decision, Ledger
from robustidps.registry.picture import ANSWER, KEPT, LEDGER, Picture, Wanted, answers, read, read_part
from robustidps.registry.stages import HARDWARE, alias_of, stage_of
from robustidps.registry.steps import step
from robustidps.registry.tracking import TAG, Tracking
from robustidps.registry.transitions import standing_of

__all__ = ["ALIASES", "Projection"]

ALIASES = ("previous", "production", "staging", *HARDWARE)


@dataclass(frozen=True)
class Projection:
    """Draws the picture of one model at a time."""

    store: state.StateStore
    ledger: Ledger
    tracking: Tracking
    _told: dict[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By model: a record of the ledger, and families and answers as the evidence up to there has them, so that who
    looks every few seconds reads only what has come since."""

    def pending(self, name: str | None = None) -> list[str]:
        """Models whose picture is behind. Doesn't import MLflow."""
        query = sa.select(state.assignment.c.model).where(
            state.assignment.c.applied_generation < state.assignment.c.generation
        )
        if name is not None:
            query = query.where(state.assignment.c.model == name)
        with self.store.read() as connection:
            return [str(model) for model in connection.execute(query.order_by(state.assignment.c.model)).scalars()]

    def complete(self, name: str, *, whole: bool = True) -> list[str]:
        """Brings MLflow in line with the state of `name`; what was changed, one sentence each.

        Args:
            whole: look at every version's tag; else only at those that were moved since the picture was last drawn,
                which takes as long with ten thousand versions as with ten.

        Raises:
            RegistryUnavailableError: MLflow doesn't answer; what is missing stays pending.
            NotFoundError: MLflow no longer has the model.
            ConflictError: another process is drawing and doesn't end.
        """
        with self.store.lock(f"project-{name}"):
            return self.draw(name, whole=whole)

    def draw(self, name: str, *, whole: bool = True) -> list[str]:
        """As `complete`, for who holds the lock `project-NAME`."""
        wanted = self.wanted(name, whole=whole)
        changes = []
        with self.tracking.errors():
            client = self.tracking.client
            picture = read(client, name) if whole else read_part(self.tracking, name, ALIASES, wanted.numbers.values())
            # A version that was deleted in MLflow can bear nothing there, until the reconciler has made it again.
            numbers = wanted.present(picture)
            for alias, version in wanted.aliases.items():
                number, actual = numbers.get(version or ""), picture.aliases.get(alias)
                if number is None and actual is not None:
                    client.delete_registered_model_alias(name, alias)
                    changes.append(f"{name}: alias {alias} removed from MLflow version {actual}")
                elif number is not None and str(number) != str(actual):
                    client.set_registered_model_alias(name, alias, str(number))
                    changes.append(f"{name}: alias {alias} set to {version} (MLflow version {number})")
                step(f"project.{alias}")
            changes += self._tag(client, name, wanted, picture, numbers)
            step("project.tags")
            if wanted.end and picture.tags.get(LEDGER) != wanted.end:
                client.set_registered_model_tag(name, LEDGER, wanted.end)
        self._applied(name, wanted)
        step("project.applied")
        return changes

    def wanted(self, name: str, *, whole: bool = True) -> Wanted:
        """What MLflow should show; unless `whole`, of versions in a role and those decided on since the last drawing.

        Raises:
            LedgerError: the ledger was edited.
        """
        with self.store.read() as connection:
            entries = self.ledger.checked(connection, name)
            standing = standing_of(entries)
            facts = [(d.action, d.version, d.to_stage) for d in entries]
            roles = standing.roles() | {alias: alias_of(facts, alias) for alias in HARDWARE}
            column = state.assignment.c
            query = sa.select(column.generation, column.applied_generation, column.answered).where(column.model == name)
            generation, applied, answered = connection.execute(query).first() or (0, 0, 0)
            versions = sa.select(state.version).where(state.version.c.model == name)
            ends = [f"{d.seq}:{d.hash}" for d in entries]
            known, family, said = self._told.get(name, ("", {}, {}))
            if not whole or known not in ends:
                known, family, said = "", {}, {}
            if whole:
                told = entries[ends.index(known) + 1 :] if known else entries
            else:
                since = [
                    d for d in entries if d.generation > applied or (d.seq > (answered or 0) and d.action != "register")
                ]
                touched = {*roles.values(), *(d.version for d in since), *(d.from_version for d in since)} - {None}
                versions = versions.where(state.version.c.version.in_(sorted(str(v) for v in touched)))
                told = [d for d in entries if d.version in touched]
            rows = connection.execute(versions).mappings().all()
            decisions = [d for d in self.ledger.with_evidence(connection, told) if isinstance(d, Decision)]
        registered = [d for d in decisions if d.action == "register"]
        family = {**family, **{str(d.version): str(d.evidence.get("family") or "") for d in registered}}
        said = answers(decisions, said)
        end = ends[-1] if ends else ""
        if whole:
            self._told[name] = end, family, said
        rows = [row for row in rows if row["mlflow_version"] is not None]
        tags, stages = {}, {}
        for row in rows:
            version = row["version"]
            stage = stage_of(standing, version)
            withdrawn = row["status"] == "withdrawn"
            shown = {"version": version, "digest": row["digest"], "stage": "Withdrawn" if withdrawn else stage}
            tags[version] = {TAG + key: value for key, value in shown.items()}
            if version in family:
                tags[version][f"{TAG}family"] = family[version]
            if version in said:
                tags[version][ANSWER] = said[version]
            stages[version] = "Archived" if withdrawn else stage
        return Wanted(
            generation,
            {alias: roles[alias] for alias in ALIASES},
            {row["version"]: row["mlflow_version"] for row in rows},
            tags,
            stages,
            end,
            frozenset(ends),
            {row["version"]: row["run_id"] for row in rows},
        )

    def _tag(self, client: Any, name: str, wanted: Wanted, picture: Picture, numbers: dict[str, int]) -> list[str]:
        changes = []
        for version, number in numbers.items():
            shown, tags = picture.versions[str(number)], wanted.tags[version]
            for key in KEPT:
                value, actual = tags.get(key), shown.tags.get(key)
                if value is None and actual is not None:
                    client.delete_model_version_tag(name, str(number), key)
                elif value is not None and value != actual:
                    client.set_model_version_tag(name, str(number), key, value)
                else:
                    continue
                changes.append(f"{name}: {version} is tagged {value or f'no {key}'}")
        with warnings.catch_warnings():  # MLflow has deprecated its stages, and shows them all the same
            warnings.simplefilter("ignore", FutureWarning)
            for version, number in numbers.items():
                if picture.versions[str(number)].stage != wanted.stages[version]:
                    client.transition_model_version_stage(name, str(number), wanted.stages[version])
        return changes

    def _applied(self, name: str, wanted: Wanted) -> None:
        mine = state.assignment.c.model == name
        newer = (state.assignment.c.generation >= wanted.generation) & (
            state.assignment.c.applied_generation < wanted.generation
        )
        answered = int(wanted.end.partition(":")[0] or 0)
        with self.store.write() as connection:
            update = sa.update(state.assignment).where(mine)
            connection.execute(update.where(newer).values(applied_generation=wanted.generation))
            connection.execute(update.where(state.assignment.c.answered < answered).values(answered=answered))
