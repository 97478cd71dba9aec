"""Cores, operations, energy and time, by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from robustidps.errors import RefusedError
from robustidps.loihi.resources import CONSTANTS, Operations, claims, operations, place, placements, running
from robustidps.loihi.runner import Simulation
from tests.loihi.conftest import random_network


def simulation(totals, outputs=4):
    return Simulation(np.zeros((len(totals), outputs), np.int64), np.array(totals), [])


def test_cores_go_by_neurons_or_by_memory_whichever_needs_more() -> None:
    network = random_network("latency", sizes=(32, 2000, 600, 13))
    wide, deep, last = place(network, "Loihi 1")
    assert (wide.cores_by_neurons, wide.cores_by_memory, wide.cores) == (2, 1, 2)  # 1024 a core; 64 bytes a neuron
    assert (deep.cores_by_neurons, deep.cores_by_memory, deep.cores) == (1, 10, 10)  # 65 rows of 2000 bytes in 128 KiB
    assert (last.bytes, last.cores) == (7800, 1)
    assert [layer.cores for layer in place(network, "Loihi 2")] == [1, 7, 1]  # 98 rows in 192 KiB


@pytest.mark.parametrize(
    ("sizes", "coding", "words"),
    [
        ((6, 24, 4), "direct", "layer 0: its inputs are graded"),
        ((6, 5000, 4), "latency", "layer 1: 5000 inputs, and a core takes 4096"),
        ((2048, 140_000, 4), "latency", "layer 0: 4375 cores"),
    ],
)
def test_what_does_not_fit_loihi_1_is_refused_with_its_layer(sizes, coding, words) -> None:
    network = random_network(coding, sizes=(2, 2))
    inputs = [sizes[0] * (2 if coding == "latency" else 1), *sizes[1:]]
    shapes = [(b, a) for a, b in pairwise(inputs)]
    layers = tuple(type("Layer", (), {"weights": np.broadcast_to(0.0, shape)}) for shape in shapes)
    network = type("Network", (), {"layers": layers, "coding": coding, "steps": network.steps})
    with pytest.raises(RefusedError, match=words):
        place(network, "Loihi 1")


def test_what_fits_no_chip_is_refused_and_what_fits_one_is_not() -> None:
    fits = {chip.chip: chip.refusal for chip in placements(random_network("direct"))}
    assert fits["Loihi 2"] is None and "graded" in str(fits["Loihi 1"])
    layers = (type("Layer", (), {"weights": np.broadcast_to(0.0, (2_000_000, 8))}),)
    with pytest.raises(RefusedError, match="layer 0: 245 cores for 2000000 neurons"):
        placements(type("Network", (), {"layers": layers, "coding": "direct", "steps": 5}))


def test_operations_are_what_was_counted() -> None:
    network = random_network("direct")  # 6-24-20-4, 8 steps
    counted = operations(network, np.zeros((2, 6)), simulation([[10, 4, 1], [20, 8, 3]]))
    assert counted.spikes == [15, 6, 2] and counted.synaptic == [6 * 8 * 24, 15 * 20, 6 * 4]
    assert counted.updates == 48 * 8 and counted.steps == 8 + 3
    times = np.array([[0, 3, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1], [1, 1, 1, 2, -1, -1, -1, -1, -1, -1, -1, -1]])
    assert operations(random_network("latency"), times, simulation([[1, 1, 1]] * 2)).synaptic[0] == 3 * 24


def test_energy_and_time_are_operations_times_published_figures() -> None:
    network = random_network("latency")
    counted = Operations(steps=11, spikes=[80.0, 8.0, 1.0], synaptic=[240.0, 1600.0, 32.0], updates=384)
    found = running(network, counted, placements(network))
    assert found.energy_uj == pytest.approx((1872 * 23.6 + 384 * 81) / 1e6)
    # The second layer: 200 operations a step of 3.5 ns, 20 neurons of 8.4 ns, and the barrier.
    assert found.step_us == pytest.approx((700 + 168 + 465) / 1e3)
    assert found.latency_ms == pytest.approx(11 * 1.333e-3) and found.shortest_ms == pytest.approx(11 * 113e-6)
    assert found.dynamic_mw == pytest.approx(1e3 * found.energy_uj / (8 * 1.333), rel=1e-9)
    assert found.leakage_uj == pytest.approx(104 * 11 * 1.333e-3) and found.left_out


def test_no_time_is_made_up_for_a_chip_without_published_ones() -> None:
    network = random_network("direct")
    counted = operations(network, np.zeros((1, 6)), simulation([[10, 4, 1]]))
    found = running(network, counted, placements(network))
    assert found.step_us is found.latency_ms is found.dynamic_mw is None
    assert found.shortest_ms == pytest.approx(11 * 200e-6)


@pytest.mark.parametrize(
    ("steps", "latency", "verdict"),
    [
        (11, 0.5, "confirmed"),
        (11, 1.5, "not measurable here"),
        (9000, None, "refuted"),
        (11, None, "not measurable here"),
    ],
)
def test_the_claim_about_a_millisecond(steps, latency, verdict) -> None:
    network = random_network("direct")
    counted = operations(network, np.zeros((1, 6)), simulation([[10, 4, 1]]))
    estimate = running(network, counted, placements(network))
    changes = {"latency_ms": latency, "shortest_ms": steps * 113e-6}
    said = {claim.text: claim for claim in claims(estimate.model_copy(update=changes), dense_ms=0.02)}
    assert said["under 1 ms"].verdict == verdict
    assert said["under 30 mW"].verdict == "refuted" and "104 mW" in said["under 30 mW"].why
    assert said["1000 times less energy"].verdict == "not measurable here"


def test_a_hundred_times_faster_is_refuted_where_even_the_shortest_steps_are_too_long() -> None:
    network = random_network("latency")
    counted = operations(network, np.zeros((1, 12)), simulation([[10, 4, 1]]))
    estimate = running(network, counted, placements(network))
    verdicts = [claims(estimate, dense_ms=estimate.shortest_ms * times)[2].verdict for times in (99, 101)]
    assert verdicts == ["refuted", "not measurable here"]


def test_every_published_figure_names_its_source() -> None:
    assert all(len(c.source) > 20 for constants in CONSTANTS.values() for c in constants.values())
