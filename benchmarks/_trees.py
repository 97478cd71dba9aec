"""LightGBM as a family, as far as a study of training needs one: it trains and predicts, and exports nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from robustidps.families import FamilySettings, Standardised, TrainingContext

Floats = npt.NDArray[np.float32]


class TreesSettings(FamilySettings):
    rounds: int = Field(default=40, ge=1, le=10_000, description="boosting rounds")
    leaves: int = Field(default=15, ge=2, le=4096, description="leaves of a tree at most")


class Trees:
    """Boosted trees with the library's class weights."""

    name: ClassVar[str] = "lightgbm"
    description: ClassVar[str] = "LightGBM, for comparison"
    framework: ClassVar[str] = "lightgbm"
    model_type: ClassVar[str] = "trees"
    extra: ClassVar[str] = "trees"
    requires: ClassVar[tuple[str, ...]] = ("lightgbm",)
    capabilities: ClassVar[frozenset[str]] = frozenset({"deterministic"})
    settings: ClassVar[type[FamilySettings]] = TreesSettings

    def train(
        self, settings: Any, train: Standardised, validation: Standardised, context: TrainingContext
    ) -> TrainedTrees:
        import lightgbm

        model = lightgbm.LGBMClassifier(
            n_estimators=settings.rounds,
            num_leaves=settings.leaves,
            random_state=settings.seed,
            n_jobs=context.threads,
            verbose=-1,
        )
        model.fit(train.x, train.y, sample_weight=context.class_weights[train.y])
        return TrainedTrees(model, context.n_classes)


class TrainedTrees:
    def __init__(self, model: Any, n_classes: int) -> None:
        self.model, self.n_classes = model, n_classes

    def logits(self, x: Floats) -> Floats:
        """Logarithms of the probabilities; a class without a training row gets the least."""
        p = np.full((len(x), self.n_classes), 1e-7, np.float32)
        p[:, self.model.classes_] = np.maximum(self.model.predict_proba(x), 1e-7)
        return np.log(p)

    def export_onnx(self, path: Path) -> None:
        raise NotImplementedError("this family is for comparison only")

    def save_native(self, folder: Path) -> None:
        raise NotImplementedError("this family is for comparison only")
