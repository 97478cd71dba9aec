"""Floating point to the integers that Loihi has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robustidps.errors import ConfigError, DatasetError
from robustidps.loihi.emulator import emulate
from robustidps.loihi.quantising import calibrate, quantise
from robustidps.nir import LIFNetwork
from tests.loihi.conftest import random_network, random_rows


def float_counts(network, x):
    """Spikes of the outputs in float64, a step at a time."""
    from robustidps.loihi.subject import encode

    data = encode(network, x)
    potentials = [np.zeros((len(x), len(layer.weights))) for layer in network.layers]
    counts = 0
    for step in range(network.steps):
        value = data if network.coding == "direct" else (data == step).astype(float)
        for k, layer in enumerate(network.layers):
            potentials[k] = potentials[k] * layer.beta + value @ layer.weights.T + layer.bias
            fired = potentials[k] > layer.threshold
            potentials[k][fired] = 0
            value = fired.astype(float)
        counts = counts + fired
    return counts.astype(np.int64)


def test_integers_are_such_as_loihi_has_and_stand_for_the_network(network) -> None:
    quantised = quantise(network)
    for whole, layer in zip(quantised.layers, network.layers, strict=True):
        scale = whole.threshold / layer.threshold
        assert (whole.weights % 2 == 0).all() and np.abs(whole.weights).max() <= 254
        assert np.abs(whole.weights / scale - layer.weights).max() <= 1 / scale + 1e-12
        assert np.abs(whole.weights).max() >= 250, "eight bits are there to be used"
        assert 1 <= whole.threshold < 2**17 and whole.decay == 410 and whole.cut == 0
        assert np.abs(whole.bias_mantissa).max() <= 4095 and 0 <= whole.bias_exponent <= 7
        assert np.abs(whole.bias / (64 * scale) - layer.bias).max() <= 2**whole.bias_exponent / (64 * scale)


def test_the_quantised_network_says_nearly_the_same(network) -> None:
    x = random_rows(400)
    quantised = quantise(network)
    counts = emulate(quantised, quantised.inputs(network, x)[0]).simulation.counts
    expected = float_counts(network, x)
    assert (counts.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert np.abs(counts - expected).mean() < 0.05 * expected.std()


def test_no_graded_input_can_overflow_and_what_is_cut_off_is_counted() -> None:
    network = random_network(gain=6.0)
    quantised = quantise(network)
    most = int(np.abs(quantised.layers[0].weights).sum(axis=1).max())
    assert (most * quantised.input_limit) >> 8 < 2**17 and most * quantised.input_limit < 2**31
    x = random_rows(5)
    x[2, 3] = 1e6
    data, cut = quantised.inputs(network, x)
    assert cut == 1 and data[2, 3] == quantised.input_limit
    assert emulate(quantised, data).overflowed[0] == 0


def test_calibrating_never_disagrees_more_on_the_rows_it_was_given() -> None:
    network = random_network(seed=4)
    first = network.layers[0].weights.copy()
    first[0, 0] = 30.0  # one weight so large that all others lose their last bits
    layers = (dataclasses.replace(network.layers[0], weights=first), *network.layers[1:])
    network = LIFNetwork(layers, network.steps, "direct", 3.0)
    x = random_rows(300)
    counts = float_counts(network, x)

    def disagreement(quantised):
        return float(
            (emulate(quantised, quantised.inputs(network, x)[0]).simulation.classes != counts.argmax(1)).mean()
        )

    plain, calibrated = quantise(network), calibrate(network, x, counts.argmax(1), counts)
    assert disagreement(calibrated) < disagreement(plain)
    assert calibrated.shares[0] < 1 and calibrated.layers[0].cut >= 1


def test_nothing_to_calibrate_on_is_an_error() -> None:
    network = random_network()
    with pytest.raises(DatasetError, match="no rows"):
        calibrate(network, random_rows(0), np.zeros(0, np.int64), np.zeros((0, 4), np.int64))


def test_weights_too_large_for_any_integer_threshold_are_refused_with_their_layer() -> None:
    network = random_network()
    layers = (network.layers[0], dataclasses.replace(network.layers[1], weights=network.layers[1].weights * 1e3))
    with pytest.raises(ConfigError, match="layer 1"):
        quantise(LIFNetwork(layers, 5, "direct", 3.0))
