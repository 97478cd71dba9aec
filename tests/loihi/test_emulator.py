"""The integer arithmetic, by hand; that it is Lava's, test_runner.py shows."""

from __future__ import annotations

import numpy as np

from robustidps.loihi.emulator import emulate, margins
from robustidps.loihi.quantising import IntegerLayer, Quantised
from robustidps.loihi.subject import encode
from tests.loihi.conftest import random_network, random_rows


def one_neuron(weight=128, threshold=200, bias=0, exponent=0, decay=2048, steps=6, limit=2**20) -> Quantised:
    layer = IntegerLayer(np.array([[weight]]), threshold, np.array([bias]), exponent, decay, -8, 0)
    return Quantised((layer,), steps, limit, (1.0,))


def run(quantised: Quantised, value: int):
    return emulate(quantised, np.array([[value]]), raster=1)


def test_potentials_leak_add_up_and_start_from_zero_after_a_spike() -> None:
    # 128 * 256 >> 8 = 128, times 64 is 8192: 8192, 12288, 14336 > 12800, then anew.
    found = run(one_neuron(), 256).simulation
    assert found.rasters[0][0, :, 0].tolist() == [False, False, True, False, False, True]
    assert found.counts.tolist() == found.totals.tolist() == [[2]]


def test_a_spike_needs_more_than_the_threshold() -> None:
    assert run(one_neuron(threshold=128, decay=4096), 256).simulation.counts[0, 0] == 0
    assert run(one_neuron(threshold=127, decay=4096), 256).simulation.counts[0, 0] == 6


def test_negative_potentials_leak_towards_zero_and_sums_are_shifted_downwards() -> None:
    # A bias of -1 a step: -1 leaks to 0, not to -1, so that it never gets below -1 and a bias of 1 would fire at once.
    assert run(one_neuron(bias=-1, weight=0, threshold=1), 0).saturated == (0,)
    # 3 * -100 = -300, shifted by 8 is -2 (not -1): -128 a step, which a bias of 256 beats by just 128 in the first.
    fired = run(one_neuron(weight=3, bias=256, threshold=2, decay=4096), -100).simulation.counts[0, 0]
    assert fired == 0  # 128 is not more than 2 * 64
    assert run(one_neuron(weight=3, bias=257, threshold=2, decay=4096), -100).simulation.counts[0, 0] == 6


def test_a_current_beyond_24_bits_wraps_around_and_is_counted() -> None:
    quantised = one_neuron(weight=254, threshold=1, decay=4096, steps=4)
    fits, wraps = 132_000, 133_000  # 254 x >> 8, times 64, against 2^23
    assert run(quantised, fits).overflowed == (0,) and run(quantised, fits).simulation.counts[0, 0] == 4
    assert run(quantised, wraps).overflowed == (4,) and run(quantised, wraps).simulation.counts[0, 0] == 0


def test_a_potential_beyond_24_bits_is_clipped_and_counted() -> None:
    quantised = one_neuron(weight=-254, threshold=1, decay=0, steps=5)
    assert run(quantised, 100_000).saturated == (4,)  # -6.35 million a step, and never below -2^23 + 1


def test_rows_do_not_depend_on_those_beside_them() -> None:
    from robustidps.loihi.quantising import quantise

    network = random_network()
    quantised = quantise(network)
    data, _ = quantised.inputs(network, random_rows(300))
    together, alone = emulate(quantised, data).simulation, emulate(quantised, data[270:275]).simulation
    assert np.array_equal(together.counts[270:275], alone.counts) and together.counts.std() > 0
    assert np.array_equal(together.totals[270:275], alone.totals)


def test_a_margin_is_the_distance_of_the_potential_that_came_closest() -> None:
    network = random_network(sizes=(1, 1), steps=3, gain=1.0)
    layer = network.layers[0]
    w, b = float(layer.weights[0, 0]), float(layer.bias[0])
    x = np.array([[0.4 / w]], np.float32)  # 0.4 + b, and what is left of it: no spike in three steps
    current = float(x[0, 0]) * w + b
    v = [current, current * (1 + layer.beta), current * (1 + layer.beta + layer.beta**2)]
    expected = min(abs(p - 1) for p in v) if v[1] <= 1 else None
    assert expected is None or np.isclose(margins(network, encode(network, x))[0], expected)
    assert v[1] <= 1, "the network that was drawn says nothing here"
