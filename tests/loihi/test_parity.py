"""The comparisons, and the gate over them."""

from __future__ import annotations

import numpy as np
import pytest

from robustidps.loihi import gate
from robustidps.loihi.parity import cost, fixed_parity, float_parity
from robustidps.loihi.report import LoihiReport, markdown
from robustidps.loihi.resources import claims, operations, placements, running
from robustidps.loihi.runner import Simulation
from robustidps.loihi.subject import encode
from robustidps.nir import LIFLayer, LIFNetwork
from robustidps.testing.traffic import toy_traffic
from tests.loihi.conftest import random_network, random_rows


def simulation(counts, totals=None):
    counts = np.array(counts)
    return Simulation(counts, np.array(totals) if totals is not None else counts.sum(axis=1, keepdims=True), [])


def test_equal_simulations_differ_in_nothing() -> None:
    network, x = random_network(), random_rows(3)
    same = simulation([[3, 1, 0, 0]] * 3, [[9, 5, 4]] * 3)
    found = float_parity(network, encode(network, x), same, same)
    assert (found.rows, found.spikes) == (3, 54)
    assert found.spikes_differing == found.rows_differing == found.classes_differing == found.unexplained == 0
    assert fixed_parity(same, same).rows_differing == 0


def test_a_difference_far_from_every_threshold_is_not_rounding() -> None:
    network, x = random_network(), random_rows(3)
    ours = simulation([[3, 1, 0, 0]] * 3, [[9, 5, 4]] * 3)
    theirs = simulation([[3, 1, 0, 0], [1, 3, 0, 0], [3, 1, 0, 0]], [[9, 5, 4], [9, 5, 4], [9, 6, 4]])
    found = float_parity(network, encode(network, x), ours, theirs)
    assert (found.spikes_differing, found.rows_differing, found.classes_differing, found.unexplained) == (5, 2, 1, 2)


def test_a_difference_at_a_threshold_is_rounding() -> None:
    network = LIFNetwork((LIFLayer(np.eye(2), np.zeros(2), 0.0, 1.0),), 3, "direct", 3.0)
    data = np.array([[1.0, 0.5], [1.0 + 1e-12, 0.5], [1.0 + 1e-6, 0.5]])
    ours, theirs = simulation([[0, 0]] * 3), simulation([[3, 0]] * 3)
    found = float_parity(network, data, ours, theirs)
    assert (found.rows_differing, found.unexplained) == (3, 1)


def test_a_class_that_differs_by_another_choice_in_a_tie_is_counted_as_that() -> None:
    network, x = random_network(), random_rows(2)
    ours = simulation([[2, 2, 0, 0], [3, 1, 0, 0]], [[9, 5, 4]] * 2)
    theirs = simulation([[1, 2, 0, 0], [1, 3, 0, 0]], [[9, 5, 3], [9, 5, 4]])
    found = float_parity(network, encode(network, x), ours, theirs)
    assert (found.classes_differing, found.classes_at_ties) == (2, 1)


def test_the_emulator_is_compared_to_the_single_spike() -> None:
    a, b = simulation([[3, 1]]), simulation([[3, 1]])
    a.rasters.append(np.zeros((1, 4, 2), bool))
    b.rasters.append(np.zeros((1, 4, 2), bool))
    b.rasters[0][0, 2, 1] = True
    assert fixed_parity(a, b).spikes_differing == 1 and fixed_parity(a, b).rows_differing == 0


def counts_for(classes, of=4, tie=()):
    counts = np.zeros((len(classes), of), np.int64)
    counts[np.arange(len(classes)), classes] = 5
    for row in tie:
        counts[row] = 5
    return simulation(counts)


def test_what_quantising_costs_is_counted_with_ties_and_unlabelled_rows_apart() -> None:
    traffic = toy_traffic(400, 5)
    c = traffic.schema.output_dim
    labels = traffic.labels.copy()
    labels[:10] = -1
    traffic = type(traffic)(**{**vars(traffic), "labels": labels})
    right = np.where(labels >= 0, labels, 0)
    worse = right.copy()
    worse[10:50] = (right[10:50] + 1) % c
    found = cost(traffic, counts_for(right, c), counts_for(worse, c, tie=[20, 399]))
    assert found.agreement.value == pytest.approx(np.mean(counts_for(worse, c, tie=[20, 399]).classes == right))
    assert (found.labelled, found.ties_floating, found.ties_fixed) == (390, 0, 2)
    assert found.accuracy_floating.value == 1
    assert found.accuracy_difference.value == pytest.approx(found.accuracy_fixed.value - 1)
    assert found.accuracy_difference.low < found.accuracy_difference.value < found.accuracy_difference.high
    assert sum(entry.support for entry in found.classes.values()) == 390
    untied = np.ones(400, bool)
    untied[[20, 399]] = False
    assert found.agreement_untied.value == pytest.approx((worse == right)[untied].mean())


def report(**changes) -> LoihiReport:
    """A report on which nothing is wrong, made by the real functions from made-up simulations."""
    network, traffic = random_network("latency"), toy_traffic(600, 5)
    x = random_rows(600)
    data = encode(network, x)
    said = counts_for(np.zeros(600, np.int64))
    said = Simulation(said.counts, np.full((600, 3), 5), [])
    counted = operations(network, data, said)
    on_chip = placements(network)
    estimate = running(network, counted, on_chip)
    content = {
        "model": "toy", "version": "1.0.0", "bundle_digest": "b" * 64, "nir_sha256": "n" * 64, "sizes": [12, 24, 20, 4],
        "steps": 8, "coding": "latency", "dataset": "toy|pipe", "data_digest": "d" * 64, "rows": 600,
        "rows_available": 600, "calibration_digest": "c" * 64, "calibration_rows": 100, "software": {},
        "deployed_classes_differing": 0, "floating": float_parity(network, data, said, said),
        "emulator": fixed_parity(said, said), "cost": cost(traffic, said, said), "layers": [], "inputs_cut": 0,
        "operations": counted, "on_chip": on_chip, "running": estimate, "claims": claims(estimate, 0.02),
    }  # fmt: skip
    made = LoihiReport(**content)
    for name, values in changes.items():
        old = getattr(made, name)
        made = made.model_copy(update={name: old.model_copy(update=values) if isinstance(values, dict) else values})
    return made


def test_a_report_without_fault_passes_and_says_so_in_words() -> None:
    made = report()
    made = made.model_copy(update={"requirements": gate.requirements(made, trained_on="t" * 64)})
    assert made.passed and gate.verdict(made)["outcome"] == "promote" and len(gate.verdict(made)["reasons"]) == 5
    text = markdown(made)
    assert "an estimate" in text and "leaves out" in text and "| NO |" not in text and "Davies" in text
    assert LoihiReport.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"rows": 499}, "enough rows"),
        ({"data_digest": "t" * 64}, "enough rows"),
        ({"floating": {"unexplained": 1}}, "floating point is the trained model"),
        ({"floating": {"classes_differing": 1}}, "floating point is the trained model"),
        ({"emulator": {"spikes_differing": 1}}, "fixed point is the emulator"),
        ({"emulator": {"rows": 0}}, "fixed point is the emulator"),
        ({"cost": {"agreement": None}}, "decides as"),
        ({"on_chip": []}, "fits a chip"),
    ],
)
def test_one_fault_is_enough_to_refuse_the_alias(changes, fails) -> None:
    from robustidps.evaluation.report import Interval

    if "cost" in changes:
        changes = {"cost": {"agreement": Interval(value=0.9699)}}
    made = report(**changes)
    made = made.model_copy(update={"requirements": gate.requirements(made, trained_on="t" * 64)})
    said = gate.verdict(made)
    assert said["outcome"] == "reject" and len(said["reasons"]) == 1 and fails in said["reasons"][0]
    assert "| NO |" in markdown(made)


def test_a_report_that_nobody_judged_passes_nothing() -> None:
    assert gate.verdict(report()) == {"outcome": "reject", "reasons": ["nothing was required of it"]}


def test_rounding_at_a_tie_is_forgiven_within_bounds() -> None:
    large = {"rows": 4000, "classes_differing": 4}
    for rows, passed in ((4000, True), (3999, False)):
        made = report(floating=large | {"rows": rows})
        assert gate.requirements(made, trained_on=None)[1].passed is passed
