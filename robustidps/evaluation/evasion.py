"""What a model still finds when attackers alter their traffic: per perturbation, and under the worst one for each tool.

The attacker is taken at his best: he knows this very model, and for every tool he uses the perturbation (or none) of
those tried under which the fewest of its flows are called an attack. `recall_under_evasion` is the share of attack
flows found then; `alert_recall_under_evasion` is the same for alerts, against an attacker who minds those. The choice
is made once, on all rows, and kept in the resamples, so an interval is about the traffic and not about the choice.

The rows come from `robustidps.traffic.evasion.evade`; `source` names the perturbation of each.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, SchemaError
from robustidps.evaluation.bootstrap import blocks_of, fold, interval
from robustidps.evaluation.report import Evasion, Interval, UnderPerturbation, WorstCase
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["UNCHANGED", "evaded_digest", "under_evasion"]

UNCHANGED = "unchanged"
"""The `source` of rows that nothing was done to."""


def evaded_digest(evaded: TrafficSet) -> str:
    """SHA-256 (hex) of the rows and of what each is: unlike `TrafficSet.digest` it covers perturbation, tool and
    campaign, on which the figures rest."""
    h = hashlib.sha256(evaded.digest.encode())
    for column in (evaded.source, evaded.tool, evaded.campaign):
        h.update("\x1f".join(map(str, column.tolist())).encode() + b"\x1e")
    return h.hexdigest()


def under_evasion(bundle: Any, evaded: TrafficSet, *, resamples: int = 1000, seed: int = 0) -> Evasion:
    """Scores evaded traffic.

    Args:
        bundle: as for `evaluate`.
        evaded: attacks alone, each row's `source` the perturbation's name, `UNCHANGED` for none.

    Raises:
        SchemaError: another schema than the model's.
        DatasetError: it isn't evaded traffic.
    """
    from robustidps.decisions import decide

    if evaded.schema.digest != bundle.schema.digest:
        raise SchemaError(
            f"the model's schema is {bundle.schema.name}, the evaded traffic's {evaded.schema.name}",
            where=bundle.metadata.name,
        )
    source, tool = evaded.source.astype(str), _tools(evaded)
    names = [n for n in dict.fromkeys(source.tolist()) if n != UNCHANGED]
    if not len(evaded) or not names or (evaded.labels <= 0).any() or not (source == UNCHANGED).any():
        raise DatasetError(
            "isn't evaded traffic: attacks alone, unchanged and under at least one perturbation",
            where="evaded traffic",
            remedy="make it with robustidps data evade",
        )
    probabilities = np.asarray(bundle.probabilities(evaded.features))
    found = probabilities.argmax(axis=1) > 0
    raised = decide(probabilities, bundle.metadata.thresholds, bundle.schema) > 0
    names = [UNCHANGED, *names]
    rates = {name: _share_of(found, evaded, source == name, resamples, seed) for name in names}
    alerts = {name: _share_of(raised, evaded, source == name, resamples, seed) for name in names}
    cost = evaded.provenance.get("cost") or {}
    label = evaded.labels
    classes = [c for c in range(1, evaded.schema.output_dim) if (label == c).any()]
    chosen, worst = _worst(found, source, tool, names)
    chosen_for_alerts, _ = _worst(raised, source, tool, names)
    return Evasion(
        data_digest=evaded_digest(evaded),
        rows=len(evaded),
        time_from=float(evaded.time.min()) if evaded.has_time else None,
        time_to=float(evaded.time.max()) if evaded.has_time else None,
        detection=_share_of(found, evaded, chosen, resamples, seed),
        alert_recall=_share_of(raised, evaded, chosen_for_alerts, resamples, seed),
        perturbations={
            name: UnderPerturbation(
                detection=rates[name],
                alert_recall=alerts[name],
                flows=int((source == name).sum()),
                classes=_by_class(found, label, classes, source == name, evaded),
                cost={k: float(v) for k, v in dict(cost.get(name, {}).get("all", {})).items()},
            )
            for name in names
        },
        classes=_by_class(found, label, classes, chosen, evaded),
        worst=worst,
    )


def _tools(evaded: TrafficSet) -> npt.NDArray[Any]:
    """Each row's tool, or where none is named its class."""
    classes = np.array(evaded.schema.classes, dtype=object)
    return np.where(evaded.tool.astype(str) == "", classes[evaded.labels], evaded.tool).astype(str)


def _worst(
    hit: npt.NDArray[np.bool_], source: npt.NDArray[Any], tool: npt.NDArray[Any], names: list[str]
) -> tuple[npt.NDArray[np.bool_], dict[str, WorstCase]]:
    """The rows of every tool under the perturbation that hides it best; of equal ones the first, so none before any."""
    chosen = np.zeros(len(hit), bool)
    worst = {}
    for name in np.unique(tool).tolist():
        mine = tool == name
        rates = {p: float(hit[rows].mean()) for p in names if (rows := mine & (source == p)).any()}
        best = min(rates, key=lambda p: rates[p])
        chosen |= mine & (source == best)
        worst[name] = WorstCase(
            perturbation=best,
            detection=rates[best],
            unchanged=rates.get(UNCHANGED),
            flows=int((mine & (source == best)).sum()),
        )
    return chosen, worst


def _share_of(
    hit: npt.NDArray[np.bool_], evaded: TrafficSet, rows: npt.NDArray[np.bool_], resamples: int, seed: int
) -> Interval:
    """Share of the rows that are hit, with an interval over their campaigns."""
    folded = fold([hit[rows]], blocks_of(evaded.select(rows)))
    yes = folded.patterns[:, 0] == 1
    value, draws = (
        counts[:, yes].sum(axis=1) / counts.sum(axis=1) for counts in (folded.totals, folded.resample(resamples, seed))
    )
    return interval(float(value[0]), draws, folded.blocks_with(np.ones_like(yes)))


def _by_class(
    hit: npt.NDArray[np.bool_],
    label: npt.NDArray[np.int16],
    classes: list[int],
    rows: npt.NDArray[np.bool_],
    evaded: TrafficSet,
) -> dict[str, float]:
    return {evaded.schema.classes[c]: float(hit[mine].mean()) for c in classes if (mine := rows & (label == c)).any()}
