"""The unified model: registered versions that decide together, as one bundle with one ONNX graph.

    p = softmax(ln(sum_k w_k p_k) / T)        p_k: member k's calibrated probabilities; w_k >= 0, sum_k w_k = 1

The weights are those with the greatest likelihood on validation rows, every class's rows counting as they do in
training (`class_weights`), found by expectation maximisation for a mixture whose parts are fixed (Dempster, Laird and
Rubin, 1977): each round it gets no worse, and there is one maximum. T is fitted afterwards like any family's: a mean of
calibrated models is too cautious.

This is no family. A family sees standardised rows and gives logits, with the library's preprocessing before and softmax
behind; the members here are bundles, each with a preprocessing of its own inside its graph, and what is learnt is K
numbers. So it has an entry of its own, `robustidps unify`, and shares everything after it: parity gate, evaluation,
registry, rules.

A member must have been trained on the very rows that the data set's split gives for training: then held-out rows, on
which the whole is judged, are rows that no member has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from robustidps.bundle.merge import FLOOR, merge
from robustidps.calibration import softmax
from robustidps.comparing import resolve
from robustidps.errors import ConfigError, SchemaError
from robustidps.progress import Progress, silent
from robustidps.registry.metadata import ModelMetadata
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import ALERT_BUDGET, PARITY_ROWS, calibrate, class_weights, even_sample, training_facts

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.registry.registry import ModelRegistry

__all__ = ["FAMILY", "MAX_MEMBERS", "demand_unifiable", "fit_weights", "members_of", "unify"]

FAMILY = "unified"
"""What metadata names as the family of a unified model."""

MAX_MEMBERS = 16

Floats = npt.NDArray[np.float32]


def members_of(registry: ModelRegistry, references: Sequence[str]) -> list[Bundle]:
    """The bundles that NAME@VERSION (or NAME@production, ...) mean, verified.

    Raises:
        ConfigError: fewer than two, too many, or the same one twice.
        NotFoundError: no such model or version.
        SchemaError: they read other columns, or tell other classes apart.
        IntegrityError: a bundle isn't the one that was registered.
    """
    if not 2 <= len(references) <= MAX_MEMBERS:
        raise ConfigError(
            f"{len(references)} members: a unified model has 2 to {MAX_MEMBERS}",
            remedy="name registered versions, for example neural_ode@1.0.0 boosted_trees@1.0.0",
        )
    bundles: list[Bundle] = []
    for reference in references:
        bundle = resolve(registry, reference)
        twin = next((b for b in bundles if b.digest == bundle.digest), None)
        if twin is not None:
            raise ConfigError(f"{_called(bundle)} is named twice", where=reference, remedy="name each member once")
        bundles.append(bundle)
    for bundle in bundles[1:]:
        if bundle.schema.digest != bundles[0].schema.digest:
            raise SchemaError(
                f"reads other columns or tells other classes apart than {_called(bundles[0])}",
                where=_called(bundle),
                remedy="unite versions that were trained on the same data set",
            )
    return bundles


def demand_unifiable(members: Sequence[Bundle], train: TrafficSet) -> None:
    """Whether every member learnt from `train`, and from nothing else.

    Raises:
        SchemaError: the traffic has another schema.
        ConfigError: a member learnt from other rows; held-out ones may be among them.
    """
    for member in members:
        if member.schema.digest != train.schema.digest:
            raise SchemaError(
                f"reads other columns or tells other classes apart than the traffic ({train.schema.name})",
                where=_called(member),
                remedy="name the data set that the members were trained on (--dataset)",
            )
        facts = member.metadata.training
        if facts is None or facts.data_digest != train.digest:
            raise ConfigError(
                "was trained on other rows than this data set's training part, so it may have seen held-out ones",
                where=_called(member),
                remedy="name the data set and split it was trained with, or train it on this one first",
            )


def fit_weights(truth: npt.ArrayLike, row_weights: npt.ArrayLike, rounds: int = 1000) -> npt.NDArray[np.float64]:
    """The weights w [K] of greatest likelihood, w >= 0, adding up to 1.

    Args:
        truth: [N, K], the probability that each member gives to each row's true class.
        row_weights: [N], how much each row counts.
        rounds: of expectation maximisation at most; it ends when no weight moves by more than 1e-7.
    """
    likely = np.maximum(np.asarray(truth, np.float64), FLOOR)
    counts = np.asarray(row_weights, np.float64)
    w = np.full(likely.shape[1], 1 / likely.shape[1])
    for _ in range(rounds):
        shares = likely * w
        new = counts @ (shares / shares.sum(axis=1, keepdims=True)) / counts.sum()
        moved, w = np.abs(new - w).max(), new
        if moved < 1e-7:
            break
    return w


def unify(
    members: Sequence[Bundle],
    train: TrafficSet,
    validation: TrafficSet,
    *,
    name: str,
    version: str,
    out: Path,
    author: str = "unknown",
    description: str = "",
    dataset: str | None = None,
    split: str = "",
    alert_budget: float = ALERT_BUDGET,
    progress: Progress = silent,
) -> Bundle:
    """Fits weights on `validation`, merges the members' graphs, and writes the bundle.

    Args:
        members: as `members_of` gives them.
        train: what all of them learnt from; described as the reference for drift, nothing is fitted to it.
        validation: weights, temperature, thresholds and the `val_*` figures are of these rows.
        name, version, out, author, description, dataset, split, alert_budget: as for `train_bundle`.

    Raises:
        What `members_of` and `demand_unifiable` raise, what `train_bundle` raises, and
        ParityError: the merged graph says something else than the weighted mean of the members.
        BundleError: the merged graph is beyond what the audit lets through.
    """
    from robustidps.bundle import verified_model, write_graph
    from robustidps.evaluation.reference import profile

    demand_unifiable(members, train)
    y = validation.labels.astype(np.int64)
    given = _ask(members, validation.features, progress)
    counts = class_weights(y, validation.schema.output_dim)[y]
    weights = fit_weights(given[:, np.arange(len(y)), y].T, counts)
    calibration = calibrate(_logits(given, weights), validation, alert_budget)

    def probabilities(x: Floats) -> Floats:
        """What the merged graph has to agree with: the members' own answers, averaged here."""
        return softmax(_logits(_ask(members, x, silent), weights), calibration.temperature)

    progress("merging graphs", 0, None)
    model = merge([verified_model(m.path, m.digest) for m in members], weights, calibration.temperature)
    facts = [
        {"model": m.metadata.name, "version": m.metadata.version, "digest": m.digest, "weight": round(float(w), 6)}
        for m, w in zip(members, weights, strict=True)
    ]
    progress("describing training traffic", 0, None)
    reference = profile(train, probabilities(train.features))
    metadata = ModelMetadata(
        name=name,
        version=version,
        model_type="ensemble",
        framework="onnx",
        input_dim=train.schema.input_dim,
        output_dim=train.schema.output_dim,
        performance_metrics=calibration.metrics,
        requirements=sorted({r for m in members for r in m.metadata.requirements}),
        author=author,
        description=description,
        family=FAMILY,
        schema_digest=train.schema.digest,
        training=training_facts(
            train,
            validation,
            dataset=dataset,
            split=split,
            settings={"members": facts},
            held_out=sorted({w for m in members if m.metadata.training for w in m.metadata.training.held_out}),
        ),
        temperature=calibration.temperature,
        thresholds=calibration.thresholds,
        alert_budget=alert_budget,
    )
    progress("writing bundle", 0, None)
    return write_graph(
        out,
        metadata=metadata,
        schema=train.schema,
        model=model,
        probabilities=probabilities,
        rows=even_sample(validation, PARITY_ROWS, 0),
        reference=reference,
    )


def _ask(members: Sequence[Bundle], x: Floats, progress: Progress) -> Floats:
    """Raw [N, F] to the members' probabilities [K, N, C]."""
    answers = []
    for k, member in enumerate(members):
        progress("asking members", k, len(members), note=_called(member))
        answers.append(member.probabilities(x))
    return np.stack(answers)


def _logits(given: Floats, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Members' probabilities [K, N, C] to the logarithm of their weighted mean [N, C]."""
    return np.log(np.maximum(np.einsum("k,knc->nc", weights, given.astype(np.float64)), FLOOR))


def _called(bundle: Bundle) -> str:
    return f"{bundle.metadata.name}@{bundle.metadata.version}"
