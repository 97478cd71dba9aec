"""Families that threads of one process train at once give what each gives alone, whatever state frameworks share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from robustidps.families import Standardised, TrainingContext, family_settings, get_family

SETTINGS = {
    "neural_ode": {"epochs": 2, "batch_size": 64, "hidden": 8, "width": 8, "bins": 4, "dropout": 0.2},
    "quantum": {"epochs": 2, "batch_size": 64, "qubits": 3},
    "spiking": {"epochs": 2, "batch_size": 64, "hidden": [16], "steps": 5},
    "boosted_trees": {"rounds": 5},
    "keras_mlp": {"epochs": 2, "batch_size": 64, "hidden": [8]},
    "flax_mlp": {"epochs": 2, "batch_size": 64, "hidden": [8]},
}


def _rows(n: int, seed: int) -> Standardised:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return Standardised((rng.normal(size=(n, 12)) + y[:, None]).astype(np.float32), y.astype(np.int64))


TRAIN, VALIDATION = _rows(400, 0), _rows(100, 1)


def _logits(name: str) -> npt.NDArray[np.float32]:
    family = get_family(name)
    context = TrainingContext(n_classes=3, class_weights=np.ones(3, np.float32))
    settings = family_settings(family, {**SETTINGS[name], "seed": 7})
    return np.asarray(family.train(settings, TRAIN, VALIDATION, context).logits(VALIDATION.x))


@pytest.mark.parametrize("names", [("neural_ode", "quantum", "spiking"), tuple(SETTINGS)])
def test_training_at_once_gives_what_training_alone_gives(names: tuple[str, ...]) -> None:
    alone = {name: _logits(name) for name in names}
    with ThreadPoolExecutor(2 * len(names)) as threads:
        for _ in range(2):
            for name, logits in zip(2 * names, threads.map(_logits, 2 * names), strict=True):
                np.testing.assert_array_equal(logits, alone[name], err_msg=name)
