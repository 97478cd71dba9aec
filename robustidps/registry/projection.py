"""MLflow's aliases and tags as a picture of the state.

After each move the picture is brought up to date, in this order: `previous`, `production`, `staging`, `loihi`, tags,
and last the assignment's `applied_generation`. If that is cut short, `applied_generation` stays behind, and whoever
comes next completes it. Nothing here decides anything, and nothing reads the picture to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from robustidps.registry import state
from robustidps.registry.ledger import Ledger
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
            generation, roles, stages, numbers, end = self._wanted(name, whole)
            changes = []
            with self.tracking.errors():
                client = self.tracking.client
                aliases = self.tracking.aliases(name, ALIASES)
                for alias in ALIASES:
                    wanted, actual = numbers.get(roles[alias] or ""), aliases.get(alias)
                    if wanted is None and actual is not None:
                        client.delete_registered_model_alias(name, alias)
                        changes.append(f"{name}: alias {alias} removed from MLflow version {actual}")
                    elif wanted is not None and str(wanted) != str(actual):
                        client.set_registered_model_alias(name, alias, str(wanted))
                        changes.append(f"{name}: alias {alias} set to {roles[alias]} (MLflow version {wanted})")
                    step(f"project.{alias}")
                changes += self._tag(client, name, stages, numbers, whole)
                step("project.tags")
                if end:
                    client.set_registered_model_tag(name, f"{TAG}ledger", end)
            with self.store.write() as connection:
                connection.execute(
                    sa.update(state.assignment)
                    .where(
                        state.assignment.c.model == name,
                        state.assignment.c.generation >= generation,
                        state.assignment.c.applied_generation < generation,
                    )
                    .values(applied_generation=generation)
                )
            step("project.applied")
            return changes

    def _wanted(self, name: str, whole: bool) -> tuple[int, dict[str, str | None], dict[str, str], dict[str, int], str]:
        """Generation, version by role, stage and MLflow number by version, the ledger's end.

        Unless `whole`, versions are those in a role and those that decisions after `applied_generation` are about.
        """
        with self.store.read() as connection:
            decisions = self.ledger.checked(connection, name)
            standing = standing_of(decisions)
            facts = [(d.action, d.version, d.to_stage) for d in decisions]
            roles = standing.roles() | {alias: alias_of(facts, alias) for alias in HARDWARE}
            column = state.assignment.c
            query = sa.select(column.generation, column.applied_generation).where(column.model == name)
            generation, applied = connection.execute(query).first() or (0, 0)
            versions = sa.select(state.version).where(state.version.c.model == name)
            if not whole:
                moved = [d for d in decisions if d.generation > applied]
                touched = {*roles.values(), *(d.version for d in moved), *(d.from_version for d in moved)} - {None}
                versions = versions.where(state.version.c.version.in_(sorted(str(v) for v in touched)))
            rows = connection.execute(versions).mappings().all()
        numbers = {row["version"]: row["mlflow_version"] for row in rows if row["mlflow_version"] is not None}
        stages = {
            row["version"]: "Withdrawn" if row["status"] == "withdrawn" else stage_of(standing, row["version"])
            for row in rows
        }
        end = f"{decisions[-1].seq}:{decisions[-1].hash}" if decisions else ""
        return generation, roles, stages, numbers, end

    def _tag(self, client: Any, name: str, stages: dict[str, str], numbers: dict[str, int], whole: bool) -> list[str]:
        shown = self.tracking.tags(name, f"{TAG}stage", None if whole else numbers.values())
        changes = []
        for version, number in numbers.items():
            if str(number) in shown and shown[str(number)] != stages[version]:
                client.set_model_version_tag(name, str(number), f"{TAG}stage", stages[version])
                changes.append(f"{name}: {version} is tagged {stages[version]}")
        return changes
