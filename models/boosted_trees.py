"""Gradient-boosted decision trees (Friedman 2001), by LightGBM (Ke et al., NeurIPS 2017): the plain, strong baseline.

    z_c(x) = ln p_c + sum over m = 1..M of eta T_mc(x)          x [D] -> z [C]
    T_mc: a tree of at most `leaves` leaves, grown leaf by leaf on the gradient of class-weighted cross-entropy

with D standardised features, C classes, M boosting rounds, eta the learning rate and p_c the weighted share of class c
in training. Trees need no scaling; they get standardised rows because every family does. On tables of flow statistics
this is what most people would pick, and usually what a network has to be better than (Grinsztajn et al., "Why do
tree-based models still outperform deep learning on tabular data?", NeurIPS 2022).

Class imbalance: rows are weighted by the class weights that training hands to every family, and their tilt is taken out
of the logits afterwards (z_c - ln w_c), so that probabilities still mean what they say.

Every threshold is rounded down to the nearest float32. Inputs are float32, so `x <= threshold` says the same for all of
them, and the ONNX graph, whose thresholds are float32, sends every row the same way as LightGBM does.

The same seed, rows and threads give the same trees.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from robustidps.errors import BundleError, MissingExtraError
from robustidps.evaluation.metrics import confusion_matrix, macro_f1
from robustidps.families import FamilySettings, Standardised, TrainingContext
from robustidps.models._loop import demand_rows, weight_shift
from robustidps.settings import writable

__all__ = ["BoostedTrees", "BoostedTreesSettings", "TrainedTrees", "load_native"]

Floats = npt.NDArray[np.float32]

_OPSET, _OPSET_ML = 18, 1


class BoostedTreesSettings(FamilySettings):
    """What boosted trees can be told."""

    rounds: int = Field(default=300, ge=1, le=10_000, description="boosting rounds at most; each grows a tree a class")
    patience: int = Field(default=30, ge=1, le=10_000, description="rounds without improvement before stopping")
    leaves: int = Field(default=15, ge=2, le=4096, description="leaves of a tree at most")
    learning_rate: float = Field(default=0.1, gt=0, le=1, description="eta, how much of each tree is taken")
    min_rows_in_leaf: int = Field(default=20, ge=1, le=1_000_000, description="training rows in a leaf at least")
    feature_fraction: float = Field(default=0.5, gt=0, le=1, description="share of columns that each tree may use")
    row_fraction: float = Field(default=1.0, gt=0, le=1, description="share of rows that each round is grown on")
    l2: float = Field(default=0.0, ge=0, le=1e6, description="L2 penalty on leaf values")


class BoostedTrees:
    """The family. Importing it imports no LightGBM."""

    name: ClassVar[str] = "boosted_trees"
    description: ClassVar[str] = "Gradient-boosted decision trees, the baseline to beat"
    framework: ClassVar[str] = "lightgbm"
    model_type: ClassVar[str] = "lightgbm"
    extra: ClassVar[str] = "trees"
    requires: ClassVar[tuple[str, ...]] = ("lightgbm", "onnxmltools")
    capabilities: ClassVar[frozenset[str]] = frozenset({"calibrated", "deterministic"})
    settings: ClassVar[type[FamilySettings]] = BoostedTreesSettings

    def train(
        self,
        settings: BoostedTreesSettings,
        train: Standardised,
        validation: Standardised,
        context: TrainingContext,
    ) -> TrainedTrees:
        """Grows trees on `train`, stops early on `validation`.

        Args:
            train, validation: x float32 [N, D], y int64 [N]; classes may lack rows, batches may hold a single class.

        Raises:
            DatasetError: no rows to train on, or to stop on.
        """
        lightgbm = _lightgbm()
        demand_rows(train, validation)
        weights = np.asarray(context.class_weights, np.float64)
        # A class that training has no row of has weight 0, and LightGBM wants some weight in the validation part.
        parts = [
            lightgbm.Dataset(part.x, part.y, weight=weights[part.y] if weights[part.y].any() else None)
            for part in (train, validation)
        ]
        figures: dict[str, dict[str, list[float]]] = {}
        booster = lightgbm.train(
            {
                "objective": "multiclass",
                "metric": "multi_logloss",
                "num_class": context.n_classes,
                "num_leaves": settings.leaves,
                "learning_rate": settings.learning_rate,
                "min_data_in_leaf": settings.min_rows_in_leaf,
                "feature_fraction": settings.feature_fraction,
                "bagging_fraction": settings.row_fraction,
                "bagging_freq": int(settings.row_fraction < 1),
                "lambda_l2": settings.l2,
                "seed": settings.seed,
                "deterministic": True,
                "force_row_wise": True,
                "num_threads": context.threads,
                "verbosity": -1,
            },
            parts[0],
            num_boost_round=settings.rounds,
            valid_sets=parts,
            valid_names=["train", "val"],
            callbacks=[
                lightgbm.record_evaluation(figures),
                lambda env: _report(env, settings.rounds, validation, context),
                lightgbm.early_stopping(settings.patience, first_metric_only=True, verbose=False),
            ],
        )
        text = booster.model_to_string(num_iteration=booster.best_iteration or settings.rounds)
        shift = weight_shift(context.class_weights)
        return TrainedTrees(_with_float32_thresholds(text), shift, settings, train.x.shape[1])


class TrainedTrees:
    """Trees as LightGBM's own text, and the class weights' logarithms [C] that are taken out of its raw scores."""

    def __init__(self, text: str, shift: Floats, settings: BoostedTreesSettings, inputs: int) -> None:
        self.text, self.shift, self.settings, self.inputs = text, shift, settings, inputs
        self.booster = _lightgbm().Booster(model_str=text)

    def logits(self, x: Floats) -> Floats:
        """Standardised float32 [N, D] to logits float32 [N, C]."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        if not len(x):
            return np.empty((0, len(self.shift)), np.float32)
        raw = np.asarray(self.booster.predict(x, raw_score=True, num_threads=1)).reshape(len(x), -1)
        return (raw - self.shift).astype(np.float32)

    def export_onnx(self, path: Path) -> None:
        """Writes one ONNX file: `x` float32 [N, D] to `logits` float32 [N, C]: a tree ensemble, and a subtraction."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        converted = convert_lightgbm(
            self.booster,
            initial_types=[("x", FloatTensorType([None, self.inputs]))],
            zipmap=False,
            target_opset=15,
        )
        (ensemble,) = (node for node in converted.graph.node if node.op_type == "TreeEnsembleClassifier")
        attributes = [a for a in ensemble.attribute if a.name != "post_transform"]
        raw = helper.make_node("TreeEnsembleClassifier", ["x"], ["label", "raw"], domain="ai.onnx.ml")
        raw.attribute.extend([*attributes, helper.make_attribute("post_transform", "NONE")])
        graph = helper.make_graph(
            [raw, helper.make_node("Sub", ["raw", "shift"], ["logits"])],
            "boosted_trees",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", self.inputs])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(self.shift)])],
            [numpy_helper.from_array(self.shift, "shift")],
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _OPSET_ML)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        with writable(path):
            onnx.save(model, str(path))

    def save_native(self, folder: Path) -> None:
        """Writes `trees.txt` (LightGBM's text format) and `config.json`. Read them again with `load_native`."""
        config = {
            "format_version": 1,
            "family": BoostedTrees.name,
            "inputs": self.inputs,
            "shift": [float(v) for v in self.shift],
            "settings": self.settings.model_dump(mode="json"),
        }
        with writable(folder):
            (folder / "trees.txt").write_text(self.text, encoding="utf-8")
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (folder / "config.json").write_text(text, encoding="utf-8")


def load_native(folder: Path) -> TrainedTrees:
    """The model that `save_native` wrote. For files of your own alone: LightGBM's reader is not made for strangers'.

    Raises:
        BundleError: a file is missing, or isn't what it should be.
    """
    lightgbm = _lightgbm()
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = BoostedTreesSettings.model_validate(config["settings"])
        text = (folder / "trees.txt").read_text(encoding="utf-8")
        model = TrainedTrees(text, np.asarray(config["shift"], np.float32), settings, int(config["inputs"]))
        fits = model.booster.num_feature() == model.inputs and model.booster.num_model_per_iteration() == len(
            model.shift
        )
    except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
        raise BundleError(f"holds no boosted trees: {' '.join(str(error).split())}", where=folder) from None
    if not fits:
        raise BundleError("its trees and its config.json don't fit each other", where=folder)
    return model


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise MissingExtraError("LightGBM", BoostedTrees.extra) from None
    return lightgbm


def _report(env: Any, rounds: int, validation: Standardised, context: TrainingContext) -> None:
    """Tells the context about a round: the losses; every tenth round and at the end macro-F1 too, which costs more."""
    metrics = {f"{name}_loss": float(value) for name, _, value, *_ in env.evaluation_result_list}
    number = env.iteration + 1
    if number % 10 == 0 or number in (1, rounds):
        raw = np.asarray(env.model.predict(validation.x, raw_score=True, num_threads=context.threads))
        predicted = raw.reshape(len(validation), -1).argmax(axis=1)
        metrics["val_macro_f1"] = float(macro_f1(confusion_matrix(validation.y, predicted, context.n_classes)))
    context.epoch(number, rounds, metrics)


def _with_float32_thresholds(text: str) -> str:
    """LightGBM's model text with every split threshold rounded down to float32; see this module's text."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if line.startswith("threshold="):
            exact = np.array(line.removeprefix("threshold=").split(), np.float64)
            near = exact.astype(np.float32)
            near = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)
            lines[at] = "threshold=" + " ".join(repr(float(v)) for v in near)
    # The file says how long each tree's text is; what has changed its length is read by its markers alone.
    return "\n".join(line for line in lines if not line.startswith("tree_sizes="))
