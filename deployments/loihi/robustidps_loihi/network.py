"""A NIR graph as a network of Lava processes, and the run of it."""

import mmap
import os
import signal
import threading
import time
from multiprocessing import shared_memory

import numpy as np

__all__ = ["Refused", "chain", "run", "settings_of"]


class Refused(Exception):
    """What was given can't be run; the message says why."""


def chain(graph):
    """Nodes from input to output in the order of the edges, [(Affine, LIF), ..]. NIR keeps nodes in no order.

    Raises:
        Refused: anything but input -> Affine -> LIF -> .. -> output.
    """
    following = dict(graph.edges)
    if len(following) != len(graph.edges):
        raise Refused("a node leads to two others")
    names = [name for name, node in graph.nodes.items() if type(node).__name__ == "Input"]
    if len(names) != 1:
        raise Refused(f"{len(names)} inputs, where one is needed")
    while names[-1] in following and len(names) <= len(graph.nodes):
        names.append(following[names[-1]])
    kinds = [type(graph.nodes[name]).__name__ for name in names]
    layers = (len(kinds) - 2) // 2
    if layers < 1 or len(names) != len(graph.nodes) or kinds != ["Input", *["Affine", "LIF"] * layers, "Output"]:
        raise Refused(f"no chain of Affine and LIF: {kinds[:12]}")
    nodes = [graph.nodes[name] for name in names[1:-1]]
    width = None
    for affine, lif in zip(nodes[::2], nodes[1::2]):
        outputs, inputs = affine.weight.shape
        if width not in (None, inputs) or affine.bias.shape != (outputs,) or lif.tau.shape != (outputs,):
            raise Refused(f"shapes don't fit: weights {affine.weight.shape} after {width} neurons, tau {lif.tau.shape}")
        if not all(np.isfinite(a).all() for a in (affine.weight, affine.bias, lif.tau, lif.v_threshold)):
            raise Refused("a weight, bias, tau or threshold is no finite number")
        width = outputs
    return list(zip(nodes[::2], nodes[1::2]))


def settings_of(graph):
    """(dt, T, whether input is spikes) from the metadata. Raises Refused."""
    meta = graph.metadata
    try:
        dt, steps, coding, reset = float(meta["dt"]), int(meta["T"]), meta["coding"], meta["reset"]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"metadata lacks dt, T, coding or reset: {error}") from None
    if not (dt > 0 and steps > 0 and reset == "zero" and coding in ("direct", "latency")):
        raise Refused(f"dt {dt}, T {steps}, coding {coding!r}, reset {reset!r}: not what Lava can run")
    return dt, steps, coding == "latency"


def _one(values, what):
    if (values != values.flat[0]).any():
        raise Refused(f"{what} differs between neurons of a layer")
    return float(values.flat[0])


def _layers(graph, dt, fixed):
    """Weights and the neuron's arguments of each layer; `fixed`: integers by layer, or None for floating point."""
    for k, (affine, lif) in enumerate(chain(graph)):
        if fixed is None:
            tau = _one(lif.tau, "tau")
            # Twelve decimals are exact for multiples of 1/4096, and more than the division leaves for others.
            beta = round(1 - dt / tau, 12)
            neuron = {"du": 1.0, "dv": 1 - beta, "vth": _one(lif.v_threshold, "threshold"), "bias_mant": affine.bias}
            yield affine.weight, 0, neuron
            continue
        weights = fixed[f"weights_{k}"]
        if weights.shape != affine.weight.shape:
            raise Refused(f"layer {k}: integer weights {weights.shape} beside {affine.weight.shape} in the graph")
        neuron = {key: fixed[f"{key}_{k}"] for key in ("bias_mant", "bias_exp")}
        neuron |= {key: int(fixed[f"{key}_{k}"]) for key in ("du", "dv", "vth")}
        yield weights, int(fixed[f"weight_exp_{k}"]), neuron


def _shared(shape, dtype):
    """Zeroed memory that forked processes share; it has no name, so nothing of it can stay behind."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, int(np.prod(shape))).reshape(shape)


def run(graph, data, *, fixed, batch, raster, token, progress):
    """Runs all samples; {"counts": int64 [N, C], "totals": int64 [N, L], "raster_K": bool [R, T, neurons]}.

    data: [N, D] graded, or steps at which inputs fire. fixed: integers by layer for the fixed-point model, or None.
    raster: how many samples' spikes are kept one by one. token: begins the names of all shared memory.

    Raises:
        Refused: graph, integers and data don't fit.
    """
    dt, steps, spikes = settings_of(graph)
    layers = list(_layers(graph, dt, fixed))
    if data.ndim != 2 or data.shape[1] != layers[0][0].shape[1] or not len(data):
        raise Refused(f"inputs of shape {data.shape}, where [N, {layers[0][0].shape[1]}] are needed")
    shared_memory._SHM_NAME_PREFIX = f"/{token}-"
    shared_memory._SHM_SAFE_NAME_LENGTH = len(token) + 18
    n = len(data)
    batch = min(batch, n)
    rounds = -(-n // batch)
    data = np.concatenate([data, np.repeat(data[-1:], rounds * batch - n, axis=0)])
    raster = min(raster, batch)
    total = rounds * steps + len(layers)

    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi1SimCfg

    from robustidps_loihi.processes import BatchDense, RecordedLIF, Source

    before = source = Source(data=data, batch=batch, steps=steps, spikes=spikes, total=total, progress=progress)
    totals, rasters, counts = [], [], None
    for k, (weights, weight_exp, neuron) in enumerate(layers):
        outputs = len(weights)
        totals.append(_shared((rounds * batch,), np.int64))
        rasters.append(_shared((raster, steps, outputs), bool))
        counts = _shared((rounds * batch, outputs), np.int64) if k == len(layers) - 1 else None
        shape = (batch, outputs)
        for key in ("bias_mant", "bias_exp"):
            if key in neuron:
                neuron[key] = np.broadcast_to(neuron[key], shape).copy()
        # The source sends at step 1; each connection delays by one.
        how = {"steps": steps, "first": k + 2, "totals": totals[k], "counts": counts, "raster": rasters[k]}
        dense = BatchDense(weights=weights, batch=batch, weight_exp=weight_exp, graded=k == 0 and not spikes)
        lif = RecordedLIF(shape=shape, **neuron, **how)
        before.s_out.connect(dense.s_in)
        dense.a_out.connect(lif.a_in)
        before = lif
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with _watched(source):
            tag = "floating_pt" if fixed is None else "fixed_pt"
            source.run(condition=RunSteps(num_steps=total), run_cfg=Loihi1SimCfg(select_tag=tag))
    finally:
        source.stop()
    found = {f"raster_{k}": spikes for k, spikes in enumerate(rasters)}
    return {"counts": counts[:n], "totals": np.stack(totals, axis=1)[:n], **found}


class _watched:
    """Ends the whole group when one of Lava's processes dies, which Lava would wait for, or when nobody asks any more."""

    def __init__(self, process):
        self.process, self.parent, self.over = process, os.getppid(), threading.Event()

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *unused):
        self.over.set()

    def _watch(self):
        while not self.over.wait(0.5):
            runtime = self.process.runtime
            actors = runtime._messaging_infrastructure.actors if runtime and runtime._messaging_infrastructure else []
            died = [a.name for a in actors if not a._is_done and a.exitcode not in (None, 0)]
            if died and not self.over.wait(1.0):
                print(f"ended by itself: {', '.join(died)}", flush=True)
                os.killpg(0, signal.SIGTERM)
            if os.getppid() != self.parent:
                os.killpg(0, signal.SIGTERM)
                time.sleep(1)
