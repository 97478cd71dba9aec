"""A registry without MLflow, for tests that are about decisions: what MLflow would keep lies in dictionaries.

`MemoryTracking` stands in for `registry.tracking.Tracking`; with `away=True` it behaves as an MLflow that doesn't
answer. Everything else (state store, ledger, keys, bundle cache) is the real thing.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from robustidps.errors import NotFoundError, RegistryUnavailableError
from robustidps.registry.registry import ModelRegistry
from robustidps.registry.tracking import TAG, Tracking
from robustidps.settings import Settings

__all__ = ["APPROVE", "REFUSE", "MemoryTracking", "memory_registry"]

APPROVE = {"outcome": "promote", "reasons": ["9 of 9 rules"]}
REFUSE = {"outcome": "reject", "reasons": ["accuracy 0.871 < 0.95"]}


class _Page(list):
    token = None


@dataclass
class _Client:
    """The few calls of MlflowClient that projection, registration and reconciler make, and those of a person."""

    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[tuple[str, str], SimpleNamespace] = field(default_factory=dict)
    runs: dict[str, SimpleNamespace] = field(default_factory=dict)

    def get_registered_model(self, name: str) -> SimpleNamespace:
        if name not in self.aliases:
            raise NotFoundError("MLflow: no such model", where=name)
        return SimpleNamespace(aliases=self.aliases[name], tags=self.tags.get(name, {}))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        if (name, version) not in self.versions:
            raise NotFoundError("MLflow: no such version", where=f"{name} {version}")
        self.aliases[name][alias] = version

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self.aliases[name].pop(alias, None)

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.tags.setdefault(name, {})[key] = value

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        self.versions[name, version].tags.pop(key, None)

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool = False
    ) -> None:
        for found in self.versions.values():
            if archive_existing_versions and found.name == name and found.current_stage == stage:
                found.current_stage = "Archived"
        self.versions[name, version].current_stage = stage

    def delete_model_version(self, name: str, version: str) -> None:
        del self.versions[name, version]
        self.aliases[name] = {k: v for k, v in self.aliases[name].items() if v != version}

    def delete_registered_model(self, name: str) -> None:
        del self.aliases[name]
        self.versions = {k: v for k, v in self.versions.items() if v.name != name}

    def rename_registered_model(self, name: str, new_name: str) -> None:
        self.aliases[new_name] = self.aliases.pop(name)
        self.tags[new_name] = self.tags.pop(name, {})
        renamed = [v for v in self.versions.values() if v.name == name]
        for found in renamed:
            found.name = new_name
        self.versions = {(v.name, v.version): v for v in self.versions.values()}

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.versions[name, version].tags[key] = value

    def search_model_versions(self, query: str, **unused: Any) -> _Page:
        meant = (f"name = '{v.name}'" == query or f"run_id = '{v.run_id}'" == query for v in self.versions.values())
        return _Page(v for v, found in zip(self.versions.values(), meant, strict=True) if found)

    def get_run(self, run_id: str) -> SimpleNamespace:
        if run_id not in self.runs:
            raise NotFoundError("MLflow: no such run", where=run_id)
        return self.runs[run_id]

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        return self.versions[name, version]

    def update_model_version(self, name: str, version: str, description: str) -> None:
        self.versions[name, version].description = description

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[run_id].data.tags[key] = value

    def restore_run(self, run_id: str) -> None:
        self.runs[run_id].info.lifecycle_stage = "active"


@dataclass
class MemoryTracking(Tracking):
    """MLflow's part, in memory; bundles lie in `settings.home/memory`."""

    away: bool = False
    memory: _Client = field(default_factory=_Client)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    @property
    def client(self) -> Any:
        if self.away:
            raise RegistryUnavailableError("MLflow doesn't answer", where="memory")
        return self.memory

    @contextmanager
    def errors(self) -> Iterator[None]:
        yield

    def ping(self) -> None:
        assert self.client  # noqa: S101 - raises where MLflow is away

    def start_run(self, model: str, version: str, tags: Mapping[str, str]) -> str:
        run_id = f"run{next(self._numbers)}"
        data = SimpleNamespace(tags={TAG + "model": model, **tags}, files=[])
        info = SimpleNamespace(run_id=run_id, status="RUNNING", lifecycle_stage="active", experiment_id="1")
        self.client.runs[run_id] = SimpleNamespace(info=info, data=data)
        return run_id

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.runs[run_id].info.status = status

    def find_run(self, model: str, tag: str, value: str) -> str | None:
        wanted = {TAG + "model": model, TAG + tag: value}
        return next((k for k, run in self.client.runs.items() if wanted.items() <= run.data.tags.items()), None)

    def log_parameters(self, run_id: str, values: Mapping[str, Any]) -> None:
        self.ping()

    def _log_points(self, run_id: str, points: list[tuple[int, Mapping[str, float]]], prefix: str) -> None:
        self.ping()

    def log_files(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        self.client.runs[run_id].data.files += [f"{folder}/{Path(file).name}" for file in files]

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self.client.runs[run_id].data.files.append(path)

    def aliases(self, name: str, known: Iterable[str]) -> dict[str, str]:
        return dict(self.client.get_registered_model(name).aliases)

    def versions(self, name: str, numbers: Iterable[int]) -> dict[str, Any]:
        return {str(n): self.client.versions[name, str(n)] for n in numbers if (name, str(n)) in self.client.versions}

    def upload_bundle(self, run_id: str, bundle: Path) -> None:
        self.ping()
        shutil.copytree(bundle, self.settings.folder("memory") / run_id, dirs_exist_ok=True)

    def fetch_bundle(self, run_id: str, folder: Path) -> Path:
        self.ping()
        stored = self.settings.home / "memory" / run_id
        if not stored.is_dir():
            raise NotFoundError("MLflow: no such artefacts", where=run_id)
        return Path(shutil.copytree(stored, folder / "bundle"))

    def ensure_model(self, name: str, description: str = "") -> None:
        self.client.aliases.setdefault(name, {})

    def ensure_version(self, name: str, run_id: str, tags: Mapping[str, str], description: str) -> int:
        for found in self.client.versions.values():
            if (found.name, found.run_id) == (name, run_id):
                return int(found.version)
        number = max((int(v.version) for v in self.client.versions.values() if v.name == name), default=0) + 1
        facts = {"name": name, "version": str(number), "run_id": run_id, "description": description}
        made = SimpleNamespace(**facts, tags=dict(tags), current_stage="None")
        self.client.versions[name, str(number)] = made
        return number

    def _runs(self, query: str, *, deleted: bool = False) -> Iterator[Any]:
        self.ping()
        return iter(())  # what retention does in MLflow is tested with a real one

    def retire_run(self, run_id: str) -> None:
        self.client.runs[run_id].info.lifecycle_stage = "deleted"

    def drop_versions(self, name: str, run_id: str) -> None:
        for key, found in list(self.client.versions.items()):
            if (found.name, found.run_id) == (name, run_id):
                del self.client.versions[key]


def memory_registry(home: Path) -> ModelRegistry:
    """A registry in `home` whose MLflow is a `MemoryTracking`, at `registry.tracking`."""
    return ModelRegistry(settings=Settings(home=home), tracking=MemoryTracking(Settings(home=home)))
