"""Quantum: what shots and a device's noise do to accuracy, on a sample of KDDTest+.

    python -m benchmarks quantum_noise [--rows 500] [--write]

One model, trained on a sample of KDDTrain+ as configured, answers the same rows of the test file with its circuit run
exactly, with few and many shots on a perfect device, and with the noise of two of IBM's (Qiskit's records of them).
`--write` also draws the circuit (docs/images/quantum_circuit.png).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._pages import ROOT, circumstances, table, write_section
from robustidps.calibration import softmax
from robustidps.evaluation.hardware import sample
from robustidps.evaluation.metrics import accuracy, confusion_matrix, macro_f1
from robustidps.families import Target, family_settings, get_family
from robustidps.traffic.loaders import load
from robustidps.traffic.splits import official_split
from robustidps.training import fit

MINUTES = 4
TRAINED_ON = 12_000
RESAMPLES = 1000
TARGETS = {
    "exact": Target(device="default.qubit"),
    **{
        f"perfect device, {shots:,} shots": Target(device="default.qubit", shots=shots) for shots in (16, 64, 256, 1024)
    },
    **{f"fake_manila, {shots:,} shots": Target(backend="fake_manila", shots=shots) for shots in (64, 1024)},
    **{f"fake_sherbrooke, {shots:,} shots": Target(backend="fake_sherbrooke", shots=shots) for shots in (1024,)},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quantum_noise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, default=ROOT / "../shared/data/nsl_kdd", help="folder of KDDTrain+")
    parser.add_argument("--rows", type=int, default=500, help="of KDDTest+, drawn uniformly")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md and the picture")
    arguments = parser.parse_args()
    folder = arguments.data_dir
    split = official_split(load("nsl_kdd", folder, part="train"), load("nsl_kdd", folder, part="test"))
    rows = sample(split.test, arguments.rows, 0)
    family = get_family("quantum")
    fitted = fit(family, family_settings(family), sample(split.train, TRAINED_ON, 0), split.validation)
    model: Any = fitted.trained
    x = fitted.preprocessing.transform(rows.features)
    plain = fitted.probabilities(rows.features).argmax(axis=1)
    lines = []
    for name, target in TARGETS.items():
        run = model.run_on(target, x)
        top = softmax(run.logits, fitted.temperature).argmax(axis=1)
        error = float(np.sqrt(np.mean((run.measured - run.exact) ** 2)))
        depth, pairs = str(run.facts["depth"]), str(run.facts.get("two_qubit_gates", "-"))
        figures = figures_of(rows.labels, top, rows.schema.output_dim)
        lines.append([name, depth, pairs, f"{error:.3f}", f"{np.mean(top == plain):.3f}", *figures])
        print(lines[-1], file=sys.stderr, flush=True)
    header = ["circuit run on", "depth", "two-qubit gates", "error of Z", "same class", "accuracy", "macro-F1"]
    text = "\n\n".join(
        [
            table(header, lines),
            f"{len(rows):,} rows of KDDTest+, five classes; {model.settings.qubits} qubits, {model.settings.layers} "
            f"layers, trained on {TRAINED_ON:,} rows of KDDTrain+. Error: root mean square of measured minus exact "
            f"expectations. Same class: as without noise. Brackets: 95 % interval, {RESAMPLES:,} bootstrap resamples "
            "of rows. Depth is counted in a device's own gates where it is one of IBM's, else in PennyLane's. Noise as "
            "Qiskit has it on record of these devices; no error mitigation.",
            circumstances("python -m benchmarks quantum_noise --write"),
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'quantum_noise', text)} and {draw(model)}")
    return 0


def figures_of(labels: np.ndarray, top: np.ndarray, classes: int) -> list[str]:
    """Accuracy and macro-F1, each with its interval."""
    confusion = confusion_matrix(labels, top, classes)
    draws = np.random.default_rng(0).multinomial(len(top), confusion.ravel() / len(top), size=RESAMPLES)
    resampled = draws.reshape(RESAMPLES, classes, classes)
    texts = []
    for figure in (accuracy, macro_f1):
        low, high = np.percentile(figure(resampled), (2.5, 97.5))
        texts.append(f"{float(figure(confusion)):.3f} [{low:.3f}, {high:.3f}]")
    return texts


def draw(model: Any) -> Path:
    """The circuit of `model` by PennyLane."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pennylane as qml

    from robustidps.models._circuits import pennylane_node

    qubits = model.settings.qubits
    node = pennylane_node(qml.device("default.qubit", wires=qubits), qubits)
    figure, _ = qml.draw_mpl(node, level="device", style="black_white")(np.zeros(qubits), model.circuit_weights)
    target = ROOT / "docs" / "images" / "quantum_circuit.png"
    figure.savefig(target, dpi=70, bbox_inches="tight")
    plt.close(figure)
    return target


if __name__ == "__main__":
    sys.exit(main())
