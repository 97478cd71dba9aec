"""Trains models for policies, with the product's own training, and counts what that takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.decisions import decide
from robustidps.errors import DatasetError
from robustidps.evaluation.bootstrap import blocks_of
from robustidps.evaluation.evaluate import Predictions
from robustidps.families import FamilySettings, ModelFamily
from robustidps.progress import Progress, silent
from robustidps.registry.metadata import TrainingFacts
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import Fitted, fit, tool_names

__all__ = ["Learner", "Model", "hold_out"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model as `evaluate` and the promotion rules want it: what a bundle would say of itself.

    rows: numbers of the rows it was trained and validated on. day: the day at whose end it was trained.
    """

    fitted: Fitted
    version: str
    day: int
    rows: npt.NDArray[np.int64]
    facts: TrainingFacts
    digest: str

    @property
    def schema(self) -> TrafficSchema:
        return self.fitted.schema

    @property
    def metadata(self) -> Any:
        return SimpleNamespace(
            name="ageing", version=self.version, thresholds=self.fitted.thresholds, training=self.facts
        )

    def probabilities(self, x: npt.ArrayLike) -> Floats:
        """Raw [N, F] to float32 [N, C]."""
        return self.fitted.probabilities(x)

    def predictions(self, x: npt.ArrayLike) -> Predictions:
        p = self.probabilities(x)
        return Predictions(p, decide(p, self.fitted.thresholds, self.schema))


@dataclass
class Learner:
    """Makes models of one family.

    trainings, seconds: how many it has made, and how long that took on this host.
    """

    family: ModelFamily
    settings: FamilySettings
    validation: float
    alert_budget: float
    seed: int = 0
    threads: int = 1
    progress: Progress = silent
    trainings: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def train(
        self, rows: TrafficSet, numbers: npt.NDArray[np.int64], day: int, at_random: npt.NDArray[np.bool_] | None = None
    ) -> Model:
        """A model of labelled `rows`; a share of their campaigns validates.

        Args:
            numbers: int [N], what the rows are called at the desk. day: today.
            at_random: bool [N]; only rows with True validate, so that temperature and thresholds are fitted to the
                traffic as it is and not to the rows that were picked for being hard. Default: all.

        Raises:
            DatasetError: too few rows, or of too few classes.
        """
        started = time.perf_counter()
        rng = np.random.default_rng([self.seed, 1, day, len(rows)])
        aside = hold_out(rows, self.validation, rng)
        validating = aside if at_random is None else aside & at_random
        train = rows.select(~aside)
        seed = (self.settings.seed + 7919 * self.trainings) % 2**31
        settings = self.settings.model_copy(update={"seed": seed})
        try:
            fitted = fit(
                self.family,
                settings,
                train,
                rows.select(validating),
                alert_budget=self.alert_budget,
                threads=self.threads,
            )
        except DatasetError as error:
            raise DatasetError(
                f"day {day}: {len(rows)} labels can't train a model: {error}",
                remedy="buy more labels (start_labels, labels_per_day), or begin with more days (start_days)",
            ) from None
        self.trainings += 1
        self.seconds += time.perf_counter() - started
        facts = TrainingFacts(
            dataset="ageing study",
            data_digest=train.digest,
            rows=len(train),
            time_from=float(rows.time.min()),
            time_to=float(rows.time.max()),
            seed=seed,
            settings=settings.model_dump(mode="json"),
            tools=tool_names(train, train.labels > 0),
            services=tool_names(train, train.labels == 0),
        )
        return Model(fitted, f"1.{self.trainings - 1}.0", day, numbers, facts, f"{train.digest}-{seed}")


def hold_out(rows: TrafficSet, share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Marks about `share` of the rows, whole campaigns (or days, where campaigns aren't known), drawn at random."""
    blocks = blocks_of(rows)
    sizes = np.bincount(blocks.code, minlength=blocks.n)
    order = rng.permutation(blocks.n)
    taken = order[np.cumsum(sizes[order]) <= max(share * len(rows), sizes[order[:1]].sum())]
    return np.isin(blocks.code, taken)
