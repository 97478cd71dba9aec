"""What a network takes on the chip: cores, operations, energy, time; and what published claims come to beside that.

Everything the chips' makers say is in `CONSTANTS`, each figure with its source. Operations are counted in the
simulation. Energy and time are estimates: operations times what the makers state for one. They are pre-silicon figures
of Loihi 1 ("consistent with early post-silicon characterization"); none were published for Loihi 2.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from robustidps.errors import RefusedError
from robustidps.loihi.runner import Simulation
from robustidps.loihi.subject import Network

__all__ = [
    "CONSTANTS",
    "LEFT_OUT",
    "Claim",
    "Constant",
    "LayerOnChip",
    "OnChip",
    "Operations",
    "Running",
    "claims",
    "dense_latency_ms",
    "operations",
    "place",
    "placements",
    "running",
]

_DAVIES = "Davies et al., Loihi: A Neuromorphic Manycore Processor with On-Chip Learning, IEEE Micro 38(1), 2018"
_BRIEF = "Intel, Taking Neuromorphic Computing to the Next Level with Loihi 2, technology brief, 2021"
_FRADY = "Frady et al., Neuromorphic Nearest Neighbor Search Using Intel's Pohoiki Springs, NICE 2020"


@dataclass(frozen=True)
class Constant:
    """A published figure."""

    value: float
    unit: str
    source: str


CONSTANTS: dict[str, dict[str, Constant]] = {
    "Loihi 1": {
        "cores": Constant(128, "", f"{_DAVIES}, p. 86"),
        "neurons per core": Constant(1024, "", f"{_DAVIES}, p. 86"),
        "synaptic memory per core": Constant(128 * 1024, "bytes", f"{_DAVIES}, p. 89"),
        "inputs per core": Constant(4096, "", f"{_DAVIES}, p. 89 (distribution lists)"),
        "graded spikes": Constant(0, "bits", f"{_DAVIES}: spikes carry no payload"),
        "energy of a synaptic operation": Constant(23.6, "pJ", f"{_DAVIES}, table 2 (at least)"),
        "energy of a neuron update": Constant(81, "pJ", f"{_DAVIES}, table 2 (active)"),
        "time of a synaptic operation": Constant(3.5, "ns", f"{_DAVIES}, table 2 (at most)"),
        "time of a neuron update": Constant(8.4, "ns", f"{_DAVIES}, table 2 (active)"),
        "shortest step": Constant(113, "ns", f"{_DAVIES}, table 2 (barrier synchronisation, 1 tile)"),
        "barrier of a whole chip": Constant(465, "ns", f"{_DAVIES}, table 2 (barrier synchronisation, 32 tiles)"),
        "leakage of a chip": Constant(104, "mW", f"{_FRADY}, table 1 (3.34 W for 32 chips)"),
    },
    "Loihi 2": {
        "cores": Constant(128, "", f"{_BRIEF}, table 1"),
        "neurons per core": Constant(8192, "", f"{_BRIEF}, table 1 (a million a chip)"),
        "synaptic memory per core": Constant(
            192 * 1024, "bytes", f"{_BRIEF}, table 1 (shared with all else in a core)"
        ),
        "graded spikes": Constant(32, "bits", f"{_BRIEF}, table 1"),
        "shortest step": Constant(200, "ns", f"{_BRIEF} (under 200 ns)"),
    },
}
"""Everything that is taken from publications, by chip. Loihi 2 has no stated limit on inputs, energy or time."""

LEFT_OUT = (
    "spikes on the mesh between cores",
    "getting inputs on and results off the chip, and the chip's own x86 cores",
    "leakage (stated apart)",
    "preprocessing of flows, which stays on the host",
)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerOnChip(_Frozen):
    """A layer's share of a chip. bytes: of weights, one each."""

    neurons: int
    inputs: int
    bytes: int
    cores_by_neurons: int
    cores_by_memory: int
    cores: int


class OnChip(_Frozen):
    """Whether a network fits a chip. refusal: why it doesn't, with the layer; None where it does."""

    chip: str
    available: int = Field(description="cores of the chip")
    cores: int | None
    layers: list[LayerOnChip]
    refusal: str | None


def place(network: Network, chip: str) -> list[LayerOnChip]:
    """Cores of each layer: neurons are spread over as many as their number and their weights need.

    Weights take a byte each. Lists of connections come on top, and what Loihi 2 keeps in the same memory besides.

    Raises:
        RefusedError: the network doesn't fit; names the layer.
    """
    limits = {name: constant.value for name, constant in CONSTANTS[chip].items()}
    if network.coding == "direct" and not limits["graded spikes"]:
        raise RefusedError(
            "layer 0: its inputs are graded values, and this chip's spikes carry none",
            where=chip,
            remedy="train with coding=latency",
        )
    found: list[LayerOnChip] = []
    for k, layer in enumerate(network.layers):
        neurons, inputs = layer.weights.shape
        memory, most = int(limits["synaptic memory per core"]), int(limits.get("inputs per core", inputs))
        if inputs > most:
            raise RefusedError(f"layer {k}: {inputs} inputs, and a core takes {most}", where=chip, remedy=_SMALLER)
        if inputs > memory:
            text = f"layer {k}: the {inputs} weights of one neuron, and a core holds {memory}"
            raise RefusedError(text, where=chip, remedy=_SMALLER)
        by_neurons = -(-neurons // int(limits["neurons per core"]))
        by_memory = -(-neurons // (memory // inputs))
        cores = max(by_neurons, by_memory)
        taken = sum(other.cores for other in found)
        if taken + cores > limits["cores"]:
            text = f"layer {k}: {cores} cores for {neurons} neurons of {inputs} inputs, where {taken} are taken"
            raise RefusedError(f"{text} of {limits['cores']:.0f}", where=chip, remedy=_SMALLER)
        found.append(
            LayerOnChip(
                neurons=neurons,
                inputs=inputs,
                bytes=neurons * inputs,
                cores_by_neurons=by_neurons,
                cores_by_memory=by_memory,
                cores=cores,
            )
        )
    return found


_SMALLER = "train with smaller hidden layers"


def placements(network: Network) -> list[OnChip]:
    """The network on each chip.

    Raises:
        RefusedError: it fits none; names the layer.
    """
    found, refusals = [], []
    for chip, constants in CONSTANTS.items():
        cores = int(constants["cores"].value)
        try:
            layers = place(network, chip)
        except RefusedError as error:
            refusals.append(error)
            found.append(OnChip(chip=chip, available=cores, cores=None, layers=[], refusal=error.problem))
            continue
        total = sum(layer.cores for layer in layers)
        found.append(OnChip(chip=chip, available=cores, cores=total, layers=layers, refusal=None))
    if len(refusals) == len(found):
        raise refusals[-1]
    return found


class Operations(_Frozen):
    """What a sample takes, as means over the simulated ones.

    spikes: of each layer. synaptic: a weight added to a potential, by layer; a graded input is one to each neuron at
    every step, whatever its value. updates: one for each neuron and step.
    """

    steps: int = Field(description="time steps from a sample's first input to its last output, layers' delays included")
    spikes: list[float]
    synaptic: list[float]
    updates: int

    @property
    def synaptic_sum(self) -> float:
        return sum(self.synaptic)


def operations(network: Network, data: npt.NDArray[Any], simulation: Simulation) -> Operations:
    """Counts a simulation's operations; `data` is what went in, as `encode` gives it."""
    spikes = [float(v) for v in simulation.totals.mean(axis=0)]
    if network.coding == "direct":
        events = float(data.shape[1] * network.steps)
    else:
        events = float((data >= 0).sum(axis=1).mean())
    sizes = [len(layer.weights) for layer in network.layers]
    return Operations(
        steps=network.steps + len(sizes),
        spikes=spikes,
        synaptic=[e * n for e, n in zip([events, *spikes[:-1]], sizes, strict=True)],
        updates=sum(sizes) * network.steps,
    )


class Running(_Frozen):
    """Estimates for Loihi 1, one sample after another. None where the network doesn't fit it.

    energy_uj: of synaptic operations and neuron updates. step_us: the busiest core's operations one after another, and
    the barrier of a whole chip. latency_ms: all steps at that rate; shortest_ms: all steps at the shortest step there
    is. dynamic_mw: the energy over the T steps after which the next sample follows; leakage_uj: of a whole chip over
    the latency.
    """

    energy_uj: float
    step_us: float | None
    latency_ms: float | None
    shortest_ms: float
    dynamic_mw: float | None
    leakage_mw: float
    leakage_uj: float | None
    left_out: list[str]


def running(network: Network, counted: Operations, on_chip: list[OnChip]) -> Running:
    """Energy, time and power by the published figures of Loihi 1.

    A network with graded input fits Loihi 2 alone, for which no such figures were published: its energy is stated as
    what its operations would take on Loihi 1, its time not at all.
    """
    c = {name: constant.value for name, constant in CONSTANTS["Loihi 1"].items()}
    pj = counted.synaptic_sum * c["energy of a synaptic operation"] + counted.updates * c["energy of a neuron update"]
    first = next(chip for chip in on_chip if chip.chip == "Loihi 1")
    step = None
    if first.refusal is None:
        busy = [
            (synaptic / network.steps) / layer.cores * c["time of a synaptic operation"]
            + layer.neurons / layer.cores * c["time of a neuron update"]
            for synaptic, layer in zip(counted.synaptic, first.layers, strict=True)
        ]
        step = (max(busy) + c["barrier of a whole chip"]) / 1e3
    latency = None if step is None else step * counted.steps / 1e3
    fits = [chip.chip for chip in on_chip if chip.refusal is None]
    shortest = min(CONSTANTS[chip]["shortest step"].value for chip in fits)
    return Running(
        energy_uj=pj / 1e6,
        step_us=step,
        latency_ms=latency,
        shortest_ms=counted.steps * shortest / 1e6,
        dynamic_mw=None if step is None else pj / (network.steps * step) / 1e3,
        leakage_mw=c["leakage of a chip"],
        leakage_uj=None if latency is None else c["leakage of a chip"] * latency,
        left_out=list(LEFT_OUT),
    )


class Claim(_Frozen):
    """A sentence of the guide (`SpikingNeuralDetector`, `deploy_to_loihi`) beside what is known here."""

    text: str
    verdict: Literal["confirmed", "refuted", "not measurable here"]
    why: str


def claims(estimate: Running, dense_ms: float) -> list[Claim]:
    """The guide's claims about Loihi.

    Args:
        dense_ms: time of a dense network of the same sizes for one row, on this machine (`dense_latency_ms`).
    """
    if estimate.shortest_ms > 1:
        latency = ("refuted", f"{estimate.shortest_ms:.3f} ms even at the chip's shortest step")
    elif estimate.latency_ms is not None and estimate.latency_ms < 1:
        latency = ("confirmed", f"{estimate.latency_ms:.3f} ms at the published times of an operation: an estimate")
    elif estimate.latency_ms is None:
        text = f"needs the chip: no times of Loihi 2 were published; at its shortest step {estimate.shortest_ms:.4f} ms"
        latency = ("not measurable here", text)
    else:
        text = f"needs the chip: {estimate.latency_ms:.3f} ms where every operation takes the most that was published"
        latency = ("not measurable here", f"{text}, {estimate.shortest_ms:.4f} ms at the shortest step")
    dynamic = (
        "" if estimate.dynamic_mw is None else f"; operations come on top, an estimated {estimate.dynamic_mw:.2f} mW"
    )
    at_best = dense_ms / estimate.shortest_ms
    faster = f"a dense network of these sizes takes {1e3 * dense_ms:.1f} us a row here, on one thread; at the chip's "
    faster += f"shortest step Loihi would be {at_best:.2f} times as fast"
    rows = [
        ("under 1 ms", *latency),
        (
            "under 30 mW",
            "refuted" if estimate.leakage_mw > 30 else "not measurable here",
            f"leakage of one powered chip alone is {estimate.leakage_mw:.0f} mW (Loihi 1, measured by its makers)"
            + dynamic,
        ),
        ("100 times lower latency", "refuted" if at_best < 100 else "not measurable here", faster),
        ("1000 times less energy", "not measurable here", "needs a power meter on both machines"),
    ]
    return [Claim.model_validate({"text": text, "verdict": verdict, "why": why}) for text, verdict, why in rows]


def dense_latency_ms(network: Network, calls: int = 500) -> float:
    """Median time of one row through a dense network (ReLU) of the same sizes, in ONNX Runtime on one thread here."""
    from robustidps.bundle.session import Session
    from robustidps.emitting import Graph

    graph, value, last = Graph("dense"), "x", len(network.layers) - 1
    for k, layer in enumerate(network.layers):
        weights, bias = graph.constant(layer.weights), graph.constant(layer.bias)
        value = graph.node("Gemm", value, weights, bias, outputs=["logits"] if k == last else None, transB=1)
        value = value if k == last else graph.node("Relu", value)
    inputs = network.layers[0].weights.shape[1]
    session = Session(graph.serialised(inputs, len(network.layers[-1].bias)), "a dense network", names=("x", "logits"))
    row = np.zeros((1, inputs), np.float32)
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        session.run(row)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken)) * 1e3
