"""A spiking network as arrays, and the file that it is handed on in: a NIR graph.

    LIFNetwork          layers of weights, biases, decay and threshold; steps and input coding
    write_nir, read_nir the Neuromorphic Intermediate Representation (Pedersen et al., "Neuromorphic intermediate
                        representation", Nature Communications 15, 8122 (2024)), for Lava and other neuromorphic tools

The equations are in `models/spiking.py`. In NIR they are input -> (Affine -> LIF) .. -> output with

    tau dv/dt = (v_leak - v) + r I,  spike where v > v_threshold, then v = v_reset

which in steps of dt is v <- (1 - dt/tau) v + (dt/tau) r I: hence tau = dt / (1 - beta) and r = tau / dt, and v_leak and
v_reset are 0. NIR itself says nothing about steps, so `metadata` of the graph does: `dt` in seconds, `T`, `reset`
("zero"), `coding` ("direct" or "latency") and `span` of the input, `readout`; and whose file it is: `name`, `version`
and `schema_digest` of the registered model, where it is one. Arrays are float64, and hold exactly what the float32
model holds. Nodes have no order of their own; a reader has to walk the edges.

Another tool that reads it has to take steps of `dt` by Euler's rule, to heed `r`, and to reset to `v_reset`. snnTorch's
`import_from_nir` does (for its fixed step of 1e-4 s, hence `DT`), and counts the same spikes. Not all do: Norse 1.1
leaves `r` out, and sinabs 3.1 and Rockpool 3.1 let potentials decay by exp(-dt / tau).
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustidps.errors import BundleError, MissingExtraError, NameInvalidError, printable
from robustidps.registry.metadata import check_version
from robustidps.settings import check_name, writable

__all__ = ["DT", "THRESHOLD", "Identity", "LIFLayer", "LIFNetwork", "read_nir", "write_nir"]

Doubles = npt.NDArray[np.float64]

THRESHOLD = 1.0
"""Potential above which a neuron fires. Weights scale with it, so another one would make no other model."""
DT = 1e-4
"""Seconds that a time step stands for in NIR: what snnTorch's reader takes for one. Nothing here depends on it."""

MAX_BYTES = 512 * 2**20
MAX_STEPS = 1000
_MAX_OBJECTS, _MAX_DEPTH = 1000, 6


@dataclass(frozen=True, eq=False)
class LIFLayer:
    """weights: float64 [outputs, inputs]. bias: float64 [outputs]. beta in [0, 1), threshold > 0."""

    weights: Doubles
    bias: Doubles
    beta: float
    threshold: float


@dataclass(frozen=True)
class Identity:
    """Whose network it is: name and version of a registered model, digest of its traffic's schema; empty if unknown."""

    name: str = ""
    version: str = ""
    schema_digest: str = ""

    def problem(self) -> str | None:
        """What is wrong with it, if something is."""
        try:
            if self.name:
                check_name(self.name)
            if self.version:
                check_version(self.version)
        except NameInvalidError as error:
            return error.problem
        if self.schema_digest and not re.fullmatch("[0-9a-f]{64}", self.schema_digest):
            return f"{printable(self.schema_digest, 80)!r} is no digest of a schema"
        return None


@dataclass(frozen=True, eq=False)
class LIFNetwork:
    """Layers from input to output; `steps` T, input `coding`, and the `span` of latency coding; whose it is."""

    layers: tuple[LIFLayer, ...]
    steps: int
    coding: Literal["direct", "latency"]
    span: float
    identity: Identity = Identity()

    @property
    def inputs(self) -> int:
        """D, features; latency coding makes two inputs of each."""
        width: int = self.layers[0].weights.shape[1]
        return width // 2 if self.coding == "latency" else width


def write_nir(path: Path, network: LIFNetwork) -> None:
    """Writes the network as a NIR graph; see this module's text.

    Raises:
        MissingExtraError: nir isn't installed. StorageError: full disk, read-only folder.
    """
    nir = _nir()
    nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array([network.layers[0].weights.shape[1]])})}
    for k, layer in enumerate(network.layers):
        one = np.ones(len(layer.bias))
        tau = DT / (1 - layer.beta)
        nodes[f"affine_{k}"] = nir.Affine(weight=layer.weights, bias=layer.bias)
        nodes[f"lif_{k}"] = nir.LIF(
            tau=tau * one,
            r=tau / DT * one,
            v_leak=0 * one,
            v_threshold=layer.threshold * one,
            v_reset=0 * one,
        )
    nodes["output"] = nir.Output(output_type={"output": np.array([len(network.layers[-1].bias)])})
    names = list(nodes)
    graph = nir.NIRGraph(nodes=nodes, edges=list(pairwise(names)))
    graph.metadata = {
        "dt": DT,
        "T": network.steps,
        "reset": "zero",
        "coding": network.coding,
        "span": network.span,
        "readout": "spike count of each output; the lowest index wins a tie",
    }
    graph.metadata |= {key: value for key, value in asdict(network.identity).items() if value}
    with writable(path):
        nir.write(path, graph)


def read_nir(path: Path, expected: Identity | None = None) -> LIFNetwork:
    """The network in a NIR file that `write_nir`, or another tool in the same manner, has written.

    Args:
        expected: whose network it has to be, where that is known; a file that doesn't say so is refused then.

    Raises:
        BundleError: it can't be read, isn't a plain chain of Affine and LIF, holds figures that make no sense, or is
            another model's.
        MissingExtraError: nir isn't installed.
    """
    nir = _nir()
    _check_file(path)
    try:
        graph = nir.read(path)
    except Exception as error:  # noqa: BLE001 - nir asserts, indexes and decodes; whatever it raises, it isn't NIR
        raise BundleError(f"isn't a NIR graph: {printable(error) or type(error).__name__}", where=path) from None
    chain = _walk(graph, path)
    meta = graph.metadata
    dt, steps, span = (_number(meta.get(key, 0.0), f"metadata {key!r}", path) for key in ("dt", "T", "span"))
    coding = meta.get("coding")
    if dt <= 0 or not 1 <= steps <= MAX_STEPS or steps != int(steps):
        raise BundleError(f"has dt {dt:g} and T {steps:g}: a time over 0 and 1 to {MAX_STEPS} are needed", where=path)
    if meta.get("reset") != "zero":
        raise BundleError(f"resets by {printable(meta.get('reset'), 60)!r}, not to zero", where=path)
    if coding not in ("direct", "latency") or (coding == "latency" and span <= 0):
        raise BundleError(f"has input coding {printable(coding, 60)!r} with span {span:g}", where=path)
    identity = Identity(*(str(meta.get(field.name, "")) for field in fields(Identity)))
    if problem := identity.problem():
        raise BundleError(f"has bad metadata: {problem}", where=path)
    if expected is not None and identity != expected:
        raise BundleError(f"is {_whose(identity)}, not {_whose(expected)}", where=path)
    layers = []
    for affine, lif in zip(chain[::2], chain[1::2], strict=True):
        layers.append(_layer(graph.nodes[affine], graph.nodes[lif], f"{affine}, {lif}", dt, path))
    if coding == "latency" and layers[0].weights.shape[1] % 2:
        raise BundleError("has an odd number of inputs, where latency coding makes two of each feature", where=path)
    return LIFNetwork(tuple(layers), int(steps), coding, span, identity)


def _whose(identity: Identity) -> str:
    model = f"{identity.name or 'a nameless model'} {identity.version}".rstrip()
    return f"{model} for schema {identity.schema_digest[:12] or 'unknown'}"


def _check_file(path: Path) -> None:
    """Refuses what would make a reader allocate without limit, go round in circles, or open another file."""
    import h5py

    found = size = 0

    def visit(group: Any, depth: int) -> None:
        nonlocal found, size
        if depth > _MAX_DEPTH:
            raise ValueError("groups lie too deep in each other, or in themselves")
        for name in group:
            found += 1
            if found > _MAX_OBJECTS:
                raise ValueError(f"holds more than {_MAX_OBJECTS} objects")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{printable(name, 60)!r} is a link")
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item, depth + 1)
                continue
            if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise ValueError(f"{printable(name, 60)!r} isn't plain data of this file")
            size += item.size * item.dtype.itemsize
            if size > MAX_BYTES:
                raise ValueError(f"holds arrays of more than {MAX_BYTES >> 20} MiB")

    try:
        with h5py.File(path, "r") as file:
            visit(file, 1)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise BundleError(f"isn't a NIR file that can be read: {printable(error)}", where=path) from None


def _walk(graph: Any, path: Path) -> list[str]:
    """Names of the nodes between input and output, in the order of the edges: Affine, LIF, Affine, LIF, .."""
    kinds = {name: type(node).__name__ for name, node in getattr(graph, "nodes", {}).items()}
    unknown = {printable(name, 60): kind for name, kind in kinds.items() if kind not in _KINDS}
    if unknown:
        raise BundleError(f"has nodes that a chain of Affine and LIF has no place for: {unknown}", where=path)
    starts = [name for name, kind in kinds.items() if kind == "Input"]
    following: dict[str, str] = {}
    for here, there in getattr(graph, "edges", []):
        if here in following or here not in kinds or there not in kinds:
            raise BundleError(f"node {printable(here, 60)!r} has no single next node", where=path)
        following[here] = there
    if len(starts) != 1 or len(set(following.values())) != len(following):
        raise BundleError("has several inputs, or paths that meet: a loop, or no plain chain", where=path)
    chain = list(starts)
    while chain[-1] in following and len(chain) <= len(kinds):
        chain.append(following[chain[-1]])
    order = [kinds[name] for name in chain]
    if len(chain) != len(kinds) or order != ["Input", *["Affine", "LIF"] * ((len(chain) - 2) // 2), "Output"]:
        raise BundleError(f"isn't input, Affine, LIF, .., output, each once: {order[:12]}", where=path)
    if len(chain) < 4:
        raise BundleError("has no layer", where=path)
    return chain[1:-1]


_KINDS = {"Input", "Affine", "LIF", "Output"}


def _layer(affine: Any, lif: Any, label: str, dt: float, path: Path) -> LIFLayer:
    values = {key: np.asarray(getattr(affine, key)) for key in ("weight", "bias")}
    values |= {key: np.asarray(getattr(lif, key)) for key in ("tau", "r", "v_leak", "v_threshold", "v_reset")}
    n = values["weight"].shape[:1]
    for key, value in values.items():
        if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise BundleError(f"{label}: {key} holds something that is no finite number", where=path)
        if (value.ndim != 2) if key == "weight" else (value.shape != n):
            raise BundleError(
                f"{label}: {key} has shape {value.shape}, beside weights {values['weight'].shape}", where=path
            )
    tau, r, leak, threshold, reset = (
        _same(values[key], f"{label}: {key}", path) for key in ("tau", "r", "v_leak", "v_threshold", "v_reset")
    )
    if not (tau >= dt and threshold > 0 and leak == reset == 0 and math.isclose(r * dt, tau, rel_tol=1e-9)):
        raise BundleError(
            f"{label}: tau {tau:g}, r {r:g}, v_leak {leak:g}, v_reset {reset:g}, v_threshold {threshold:g} at dt "
            f"{dt:g} is no neuron that leaks to and starts from zero, with r = tau / dt",
            where=path,
        )
    # Twelve decimals are exact for multiples of 1/4096, and more than the division leaves for others.
    beta = round(1 - dt / tau, 12)
    weight, bias = (np.array(values[key], np.float64) for key in ("weight", "bias"))
    return LIFLayer(weight, bias, beta, threshold)


def _same(values: npt.NDArray[Any], label: str, path: Path) -> float:
    if not values.size or (values != values.flat[0]).any():
        raise BundleError(f"{label} differs between the neurons of a layer, which Loihi's neurons can't", where=path)
    return float(values.flat[0])


def _number(value: Any, label: str, path: Path) -> float:
    if not isinstance(value, int | float | np.integer | np.floating) or not math.isfinite(value):
        raise BundleError(f"{label} is {printable(value, 60)!r}, not a number", where=path)
    return float(value)


def _nir() -> Any:
    try:
        import nir
    except ImportError:
        raise MissingExtraError("nir", "spiking") from None
    return nir
