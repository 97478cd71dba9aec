"""A version's run in MLflow: the training's own, and what is measured of it later. No decision reads anything here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import NotFoundError
from robustidps.registry.catalogue import Catalogue
from robustidps.registry.ledger import Decision, canonical
from robustidps.registry.metadata import TrainingFacts, check_version
from robustidps.registry.showing import HEADLINE, describe
from robustidps.registry.tracking import TAG, Tracking, TrainingRun
from robustidps.settings import check_name

if TYPE_CHECKING:
    from robustidps.evaluation.report import Evaluation

__all__ = ["Reports"]


class Reports(Catalogue):
    """Joined to `ModelRegistry`, which says how MLflow is reached."""

    tracking: Tracking

    @contextmanager
    def training_run(self, name: str, version: str, **options: Any) -> Iterator[TrainingRun]:
        """An MLflow run for the length of a training; see `Tracking.training_run`."""
        with self.tracking.training_run(check_name(name), check_version(version), **options) as run:
            yield run

    def log_evaluation(
        self,
        name: str,
        version: str,
        evaluation: Evaluation,
        files: Iterable[Path] = (),
        drift: Any = None,
        *,
        drift_share: float | None = None,
    ) -> None:
        """Puts figures, pictures and reports into the version's run, its headline figures on the version, and both
        with links into its description, below what a person wrote there.

        Args:
            files: pictures and pages; they land in the run's artefact folder `evaluation`.
            drift: a drift summary, stored as `drift/drift.json`; drift_share: share of features that moved.

        Raises:
            NotFoundError, RegistryUnavailableError.
        """
        record = self.version(name, version)
        if record.run_id is None or record.mlflow_version is None:
            raise NotFoundError("is not registered", where=f"{name} {version}")
        files = list(files)
        figures = dict(evaluation.metrics())
        tags = {key: str(evaluation.headline[key]) for key in HEADLINE if key in evaluation.headline}
        tags[TAG + "judged_on"] = f"{evaluation.dataset} ({evaluation.rows} rows)"
        if drift_share is not None:
            figures["drift_share"] = drift_share
            tags["drift_share"] = f"{drift_share:.4f}"
        self.tracking.log_metrics(record.run_id, figures, prefix="held_out/")
        self.tracking.log_text(record.run_id, evaluation.model_dump_json(indent=2), "evaluation/evaluation.json")
        self.tracking.log_files(record.run_id, files, "evaluation")
        if drift is not None:
            self.tracking.log_text(record.run_id, canonical(drift), "drift/drift.json")
        self.tracking.tag_version(name, record.mlflow_version, tags)
        training = next(
            (d.evidence.get("training") for d in self.history(name) if _registers(d, version)),
            None,
        )
        text = describe(
            record,
            self.tracking.experiment_of(record.run_id),
            evaluation,
            [*files, *([Path("drift.json")] if drift is not None else [])],
            None if training is None else TrainingFacts.model_validate(training),
        )
        self.tracking.describe_version(name, record.mlflow_version, record.run_id, text)

    def log_report(
        self,
        name: str,
        version: str,
        kind: str,
        figures: Mapping[str, float],
        files: Iterable[Path],
        *,
        folder: str | None = None,
        step: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Puts a report on a version into its run: figures as `KIND/..`, files into the artefact folder `KIND`.

        Args:
            folder: another artefact folder. step: of the figures, where a kind of report comes again and again.
            tags: for the version's page, each under a name of ours.

        Raises:
            NotFoundError, RegistryUnavailableError.
        """
        record = self.version(name, version)
        if record.run_id is None:
            raise NotFoundError("is not registered", where=f"{name} {version}")
        self.tracking.log_metrics(record.run_id, figures, step=step, prefix=f"{kind}/")
        self.tracking.log_files(record.run_id, files, folder or kind)
        if tags and record.mlflow_version is not None:
            named = {TAG + key: value for key, value in tags.items()}
            self.tracking.tag_version(name, record.mlflow_version, named)


def _registers(decision: Decision, version: str) -> bool:
    return decision.action == "register" and decision.version == version
