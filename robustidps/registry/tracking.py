"""Our side of MLflow: runs, artefacts, metrics and registered models. The only module that imports it.

MLflow is imported on first use (it takes seconds) and everything it or its database raises becomes one of two errors:
what was asked for isn't there (`NotFoundError`), or MLflow can't be worked with now (`RegistryUnavailableError`).

A bundle is logged as plain files in the run's folder `bundle`; a model version's source is always `runs:/RUN/bundle`,
the one form that both the embedded client and a server accept. There is no `MLmodel` among them: nothing that MLflow
could be made to execute.
"""

from __future__ import annotations

import io
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import NotFoundError, RegistryUnavailableError, RobustIDPSError, StorageError, without_passwords
from robustidps.registry.objects import s3_error
from robustidps.settings import Settings, writable

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["BUNDLE_FOLDER", "Tracking", "TrainingRun"]

BUNDLE_FOLDER = "bundle"
NOTE = "mlflow.note.content"  # what MLflow shows as a run's description
TAG = "robustidps."
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else a run on a server ends with two lines amid `--json`
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass
class TrainingRun:
    """One training in MLflow: parameters, curves, files. Made by `Tracking.training_run`."""

    tracking: Tracking
    run_id: str
    experiment_id: str

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """One point on each curve, e.g. `{"train_loss": .., "validation_f1": ..}`."""
        self.tracking.log_metrics(self.run_id, figures, step=number)

    def history(self, epochs: Iterable[Mapping[str, float]]) -> None:
        """All curves at once: one mapping of figures an epoch, in order."""
        self.tracking.log_curves(self.run_id, list(epochs))

    def metrics(self, figures: Mapping[str, float]) -> None:
        """Scalars without a curve."""
        self.tracking.log_metrics(self.run_id, figures)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Further parameters."""
        self.tracking.log_parameters(self.run_id, values)

    def tag(self, key: str, value: object) -> None:
        """A tag on the run."""
        with self.tracking.errors():
            self.tracking.client.set_tag(self.run_id, key, str(value))

    def files(self, files: Iterable[Path], folder: str) -> None:
        """Files into the run's artefact folder `folder`."""
        self.tracking.log_files(self.run_id, files, folder)


@dataclass
class Tracking:
    """MLflow at the settings' tracking address."""

    settings: Settings
    _client: MlflowClient | None = field(default=None, init=False, repr=False)

    @property
    def client(self) -> MlflowClient:
        """The client, connected on first use. Call it inside `errors()`."""
        if self._client is None:
            for key, value in _DEFAULTS.items():
                os.environ.setdefault(key, value)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            try:
                from mlflow import MlflowClient
            except ModuleNotFoundError:
                from robustidps.errors import MissingExtraError

                raise MissingExtraError("MLflow", "mlops") from None
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # retries; the last failure is raised
            if self.settings.tracking_uri.startswith("sqlite:///"):
                self.settings.folder()
            if self.settings.tracking_is_embedded and (differs := self.schema_differs()):
                raise RegistryUnavailableError(
                    f"MLflow's database is at schema {differs[0]}, the MLflow that is installed wants {differs[1]}",
                    where=self.where,
                    remedy="robustidps registry prepare brings it up to date, after a copy",
                )
            # The registry is named too: else MLflow's own setting for it could point somewhere else.
            self._client = MlflowClient(self.settings.tracking_uri, self.settings.tracking_uri)
        return self._client

    def schema_differs(self) -> tuple[str, str] | None:
        """The schema revision of an embedded MLflow's database and the one wanted, where they aren't the same.

        MLflow itself refuses some older databases and changes others on the spot, depending on what is missing.
        """
        import sqlalchemy as sa
        from mlflow.store.db import utils

        engine = sa.create_engine(self.settings.tracking_uri, poolclass=sa.pool.NullPool)
        if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
            return None
        if not sa.inspect(engine).has_table("alembic_version"):
            return None
        found, wanted = utils._get_schema_version(engine), utils._get_latest_schema_revision()
        return None if found == wanted else (str(found), str(wanted))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what MLflow raises into our errors.

        Raises:
            NotFoundError: MLflow has no such model, version, run or file.
            RegistryUnavailableError: MLflow doesn't answer, or answers with an error.
            StorageError: its files can't be written.
        """
        try:
            yield
        except RobustIDPSError:
            raise
        except ModuleNotFoundError as error:
            from robustidps.errors import MissingExtraError

            extra = {"boto3": "s3", "botocore": "s3", "psycopg": "postgresql"}.get(error.name or "")
            if extra is None:
                raise
            raise MissingExtraError(str(error.name), extra) from None
        except OSError as error:
            if type(error).__module__.startswith("requests"):
                raise self._unavailable(error) from error
            with writable(Path(error.filename or self.settings.home)):
                raise
            raise  # pragma: no cover - `writable` has raised
        except Exception as error:
            module = type(error).__module__
            if module.startswith(("boto", "s3transfer")) or "botocore" in str(error):
                raise s3_error(error, self.settings.artifacts_uri or self.where) from error
            if module.startswith("mlflow"):
                if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                    raise NotFoundError(f"MLflow: {without_passwords(str(error))}", where=self.where) from error
                raise self._unavailable(error) from error
            if module.startswith(("sqlalchemy", "sqlite3", "alembic", "urllib3", "psycopg")):
                raise self._unavailable(error) from error
            raise

    @property
    def where(self) -> str:
        return without_passwords(self.settings.tracking_uri)

    def _unavailable(self, error: Exception) -> RobustIDPSError:
        text = without_passwords(" ".join(str(error).split()))
        if "readonly" in text or "disk is full" in text:
            return StorageError(f"MLflow can't write: {text[:300]}", where=self.where)
        return RegistryUnavailableError(
            f"MLflow doesn't answer as it should: {text[:300]}",
            where=self.where,
            remedy="check that it runs and that the address is right (mlflow_tracking_uri); robustidps doctor",
        )

    def experiment(self, name: str) -> str:
        """The id of the experiment `name`, made if missing, its artefacts at `location`."""
        with self.errors():
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(found.experiment_id)
                return str(found.experiment_id)
            location = self.location(name)
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except Exception:  # another process made it in this moment
                again = self.client.get_experiment_by_name(name)
                if again is None:
                    raise
                return str(again.experiment_id)

    def location(self, experiment: str) -> str | None:
        """Where an experiment's artefacts go by the settings; None where an MLflow server decides."""
        if self.settings.artifacts_uri:
            return f"{self.settings.artifacts_uri}/{experiment}"
        if self.settings.tracking_is_embedded:
            return self.settings.folder("artifacts").joinpath(experiment).as_uri()
        return None

    # --- taking away (`robustidps.retention` says what)

    def retire_run(self, run_id: str) -> None:
        """Marks a run of ours as deleted, and says when; its artefacts stay."""
        with self.errors():
            run = self.client.get_run(run_id)
            if TAG + "model" not in run.data.tags or run.info.lifecycle_stage == "deleted":
                return
            self.client.set_tag(run_id, TAG + "retired", str(int(time.time())))
            self.client.delete_run(run_id)

    def retired_runs(self) -> dict[str, float]:
        """Runs that were retired, and when (seconds since 1970)."""
        tag = TAG + "retired"
        found = self._runs(f"tags.`{tag}` != ''", deleted=True)
        return {run.info.run_id: float(run.data.tags[tag]) for run in found if run.data.tags[tag].isdigit()}

    def abandoned_runs(self, before: float) -> Iterator[tuple[str, str]]:
        """(run, what it is) of ours that failed, or were never ended, and began before that time."""
        for run in self._runs(f"attributes.start_time < {int(before * 1000)} and tags.`{TAG}model` != ''"):
            if run.info.status in ("FAILED", "KILLED", "RUNNING"):
                yield run.info.run_id, f"{run.info.run_name}, {run.info.status.lower()}"

    def purge_runs(self, run_ids: list[str]) -> None:
        """Deletes retired runs for good, with their artefacts.

        Raises:
            RegistryUnavailableError: MLflow is a server, which takes no such orders.
        """
        if self.settings.tracking_uri.startswith("http"):
            raise RegistryUnavailableError(
                "runs can't be deleted for good through a server",
                where=self.where,
                remedy="run `mlflow gc` where the server runs, or leave purge_days empty",
            )
        with self.errors(), redirect_stdout(io.StringIO()):
            from mlflow.cli import gc

            # Called here and not as a command: the address may hold a password, and command lines can be read.
            for start in range(0, len(run_ids), 100):
                words = ["--backend-store-uri", self.settings.tracking_uri, "--run-ids"]
                words += [",".join(run_ids[start : start + 100]), "--tracking-uri", self.settings.tracking_uri]
                gc.main(args=words, standalone_mode=False)

    def _runs(self, query: str, *, deleted: bool = False) -> Iterator[Any]:
        with self.errors():
            client = self.client
            from mlflow.entities import ViewType

            view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
            ids = [e.experiment_id for e in client.search_experiments()]
            token = None
            while ids:
                page = client.search_runs(ids, query, run_view_type=view, max_results=1000, page_token=token)
                yield from page
                token = page.token
                if not token:
                    return

    def ping(self) -> None:
        """Raises RegistryUnavailableError unless MLflow answers."""
        with self.errors():
            self.client.search_registered_models(max_results=1)

    # --- runs

    def start_run(self, model: str, version: str, tags: Mapping[str, str]) -> str:
        """A new run in the model's experiment; its id."""
        experiment = self.experiment(model)
        base = {TAG + "model": model, TAG + "version": version, "mlflow.source.name": "robustidps"}
        with self.errors():
            run = self.client.create_run(experiment, run_name=f"{model} {version}", tags=base | dict(tags))
            return str(run.info.run_id)

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        with self.errors():
            self.client.set_terminated(run_id, status)

    def find_run(self, model: str, tag: str, value: str) -> str | None:
        """The newest run of `model` whose tag has `value`."""
        with self.errors():
            found = self.client.search_runs(
                [self.experiment(model)],
                f"tags.`{TAG}{tag}` = '{value}' and tags.`{TAG}model` = '{model}'",
                max_results=1,
            )
            return str(found[0].info.run_id) if found else None

    @contextmanager
    def training_run(
        self,
        model: str,
        version: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        data_digest: str = "",
        repeat: str = "",
        author: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[TrainingRun]:
        """A run for the length of a training; marked FAILED if it raises, KILLED if it is interrupted.

        Args:
            parameters: nested settings are flattened (`solver.steps`).
            data_digest: `TrafficSet.digest` of what is trained on.
            repeat: the exact command that repeats the training.

        Raises:
            RegistryUnavailableError: before anything is trained, if MLflow doesn't answer.
        """
        own = {TAG + "data_digest": data_digest, TAG + "repeat": repeat, "mlflow.user": author or self.settings.author}
        run_id = self.start_run(model, version, {k: v for k, v in own.items() if v} | dict(tags or {}))
        run = TrainingRun(self, run_id, self.experiment(model))
        try:
            if parameters:
                run.parameters(parameters)
            yield run
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            try:
                self.end_run(run_id, status)
            except RobustIDPSError as second:
                logging.getLogger(__name__).warning("the run %s could not be marked %s: %s", run_id, status, second)
            raise
        self.end_run(run_id)

    def log_parameters(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_key(k), str(v)[:6000]) for k, v in _flat(values)]
        with self.errors():
            for start in range(0, len(params), 100):
                self.client.log_batch(run_id, params=params[start : start + 100])

    def log_metrics(self, run_id: str, figures: Mapping[str, float], *, step: int = 0, prefix: str = "") -> None:
        self._log_points(run_id, [(step, figures)], prefix)

    def log_curves(self, run_id: str, epochs: list[Mapping[str, float]]) -> None:
        """One point an epoch on each curve; `epoch`, where it is among the figures, is the step."""
        points = [(int(figures.get("epoch", number)), figures) for number, figures in enumerate(epochs)]
        self._log_points(run_id, [(step, {k: v for k, v in p.items() if k != "epoch"}) for step, p in points], "")

    def _log_points(self, run_id: str, points: list[tuple[int, Mapping[str, float]]], prefix: str) -> None:
        with self.errors():
            client = self.client
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            metrics = [
                Metric(_key(prefix + k), float(v), now, step)
                for step, figures in points
                for k, v in figures.items()
                if isinstance(v, (int, float)) or hasattr(v, "item")
            ]
            for start in range(0, len(metrics), 1000):
                client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def log_files(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        with self.errors():
            for file in files:
                if Path(file).is_dir():
                    self.client.log_artifacts(run_id, str(file), f"{folder}/{Path(file).name}")
                else:
                    self.client.log_artifact(run_id, str(file), folder)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        with self.errors():
            self.client.log_text(run_id, text, path)

    # --- registered models

    def upload_bundle(self, run_id: str, bundle: Path) -> None:
        with self.errors():
            self.client.log_artifacts(run_id, str(bundle), BUNDLE_FOLDER)

    def fetch_bundle(self, run_id: str, folder: Path) -> Path:
        """Downloads a run's bundle into `folder`; the caller checks its digest."""
        with self.errors():
            return Path(self.client.download_artifacts(run_id, BUNDLE_FOLDER, str(folder)))

    def fetch_files(self, run_id: str, folder: Path) -> None:
        """Downloads all of a run's files into `folder`; none where it has none."""
        with self.errors():
            files = self._files_of(run_id)
            for found in files.list_artifacts():
                files.download_artifacts(found.path, str(folder))

    def upload_files(self, run_id: str, folder: Path) -> None:
        """Uploads all that lies in `folder` into a run."""
        with self.errors():
            self._files_of(run_id).log_artifacts(str(folder))

    def _files_of(self, run_id: str) -> Any:
        """Where MLflow's database has a run's files; its client remembers that by run, wherever they went since."""
        uri = self.client.get_run(run_id).info.artifact_uri
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(uri, tracking_uri=self.settings.tracking_uri)

    def ensure_model(self, name: str, description: str = "") -> None:
        with self.errors():
            client = self.client
            from mlflow.exceptions import MlflowException

            try:
                client.create_registered_model(name, description=description or None)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def ensure_version(self, name: str, run_id: str, tags: Mapping[str, str], description: str) -> int:
        """The MLflow version of `name` that comes from `run_id`, made if missing."""
        with self.errors():
            found = self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
            if found:
                return int(found[0].version)
            made = self.client.create_model_version(
                name,
                source=f"runs:/{run_id}/{BUNDLE_FOLDER}",
                run_id=run_id,
                tags=dict(tags),
                description=description or None,
                await_creation_for=0,
            )
            return int(made.version)

    def drop_versions(self, name: str, run_id: str) -> None:
        """Removes what an abandoned registration left: the versions of `name` that come from `run_id`."""
        with self.errors():
            for found in self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
                self.client.delete_model_version(name, found.version)

    def aliases(self, name: str, known: Iterable[str]) -> dict[str, str]:
        """Which MLflow version bears each of the `known` aliases; one question each, as MLflow's own list of a model
        takes the longer the more versions there are."""
        found = {}
        with self.errors():
            client = self.client
            from mlflow.exceptions import MlflowException

            for alias in known:
                try:
                    found[alias] = str(client.get_model_version_by_alias(name, alias).version)
                except MlflowException as error:
                    if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                        raise
        return found

    def versions(self, name: str, numbers: Iterable[int]) -> dict[str, Any]:
        """MLflow's versions of these numbers, as far as they are there; one question each."""
        found = {}
        with self.errors():
            client = self.client
            from mlflow.exceptions import MlflowException

            for number in numbers:
                try:
                    found[str(number)] = client.get_model_version(name, str(number))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
        return found

    def experiment_of(self, run_id: str) -> str:
        with self.errors():
            return str(self.client.get_run(run_id).info.experiment_id)

    def describe_version(self, name: str, mlflow_version: int, run_id: str, text: str) -> None:
        """Puts `text` below what a person wrote about the version (it begins with `showing.MARK`), and on its run."""
        from robustidps.registry.showing import MARK

        with self.errors():
            before = self.client.get_model_version(name, str(mlflow_version)).description or ""
            own = before.partition(MARK)[0].strip()
            self.client.update_model_version(name, str(mlflow_version), description=f"{own}\n\n{text}".strip())
            self.client.set_tag(run_id, NOTE, text)

    def note_of(self, run_id: str) -> str:
        """What `describe_version` put on a run; empty where there is nothing."""
        with self.errors():
            return str(self.client.get_run(run_id).data.tags.get(NOTE, ""))

    def tag_version(self, name: str, mlflow_version: int, tags: Mapping[str, str]) -> None:
        with self.errors():
            for key, value in tags.items():
                self.client.set_model_version_tag(name, str(mlflow_version), key, value)


def _key(text: str) -> str:
    """`text` as MLflow takes it for a name of a parameter or metric."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", text)[:250]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
