"""Lava processes for B samples at once; Lava's own take one.

    Source        input of one step, [B, D]: graded (the same at every step) or spikes, each input firing at most once
    BatchDense    Lava's Dense: same weights for all B samples
    RecordedLIF   Lava's LIFReset, whose shape may be [B, N] as it is; counts the spikes that it sends

Lava finds the models of a process by executing every file in the folder of its module: hence a folder of their own.
"""

import os
import time

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import PyLifResetModelBitAcc, PyLifResetModelFloat
from lava.proc.lif.process import LIFReset
from lava.utils.weightutils import SignMode, clip_weights, determine_sign_mode, truncate_weights

__all__ = ["BatchDense", "RecordedLIF", "Source"]


class Source(AbstractProcess):
    """Feeds samples, B at a time for T steps each, one after another; nothing once they are used up.

    data: [M B, D]; graded values, or, where `spikes`, the step from 0 at which each input fires, under 0 never.
    progress: file descriptor that gets a line "DONE TOTAL" in steps from time to time; None for nothing.
    """

    def __init__(self, *, data, batch, steps, spikes, total, progress):
        super().__init__(data=data, batch=batch, steps=steps, spikes=spikes, total=total, progress=progress)
        self.s_out = OutPort(shape=(batch, data.shape[1]))


class _SourceModel(PyLoihiProcessModel):
    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.params = proc_params
        self.told = 0.0

    def run_spk(self):
        p = self.params
        sample, step = divmod(self.time_step - 1, p["steps"])
        rows = p["data"][sample * p["batch"] : (sample + 1) * p["batch"]]
        if not len(rows):
            rows = np.full(self.s_out.shape, -1 if p["spikes"] else 0)
        self.s_out.send((rows == step if p["spikes"] else rows).astype(self.dtype))
        if p["progress"] is not None and time.monotonic() - self.told > 0.1:
            self.told = time.monotonic()
            os.write(p["progress"], b"%d %d\n" % (self.time_step, p["total"]))


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class SourceFloat(_SourceModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    dtype = np.float64


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SourceFixed(_SourceModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    dtype = np.int32


class BatchDense(AbstractProcess):
    """weights [N, D]; takes [B, D], gives [B, N] one step later.

    weight_exp: of the fixed-point model, as in Dense. graded: whether values other than 0 and 1 come in.
    """

    def __init__(self, *, weights, batch, weight_exp, graded):
        super().__init__(weights=weights, weight_exp=weight_exp, graded=graded)
        outputs, inputs = weights.shape
        self.s_in = InPort(shape=(batch, inputs))
        self.a_out = OutPort(shape=(batch, outputs))
        self.a_buff = Var(shape=(batch, outputs), init=0)


@implements(proc=BatchDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class BatchDenseFloat(PyLoihiProcessModel):
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    a_buff: np.ndarray = LavaPyType(np.ndarray, float)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.transposed = np.ascontiguousarray(proc_params["weights"].T, np.float64)

    def run_spk(self):
        self.a_out.send(self.a_buff)
        self.a_buff = self.s_in.recv() @ self.transposed


@implements(proc=BatchDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class BatchDenseFixed(PyLoihiProcessModel):
    """As Lava's PyDenseModelBitAcc, with its clipping and truncation. The product is taken in floating point, for which
    there is a fast routine: in float32 where every sum is a whole number that it holds, in float64 else."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    a_buff: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        weights = proc_params["weights"]
        mode: SignMode = determine_sign_mode(weights)
        weights = truncate_weights(clip_weights(weights, mode, num_bits=8), mode, 8)
        # Spikes are 0 or 1, so no sum is beyond that of a row's absolute weights.
        small = not proc_params["graded"] and np.abs(weights).sum(axis=1).max() < 2**24
        self.transposed = np.ascontiguousarray(weights.T, np.float32 if small else np.float64)
        self.weight_exp = int(proc_params["weight_exp"])

    def run_spk(self):
        self.a_out.send(self.a_buff)
        total = self.s_in.recv().astype(self.transposed.dtype) @ self.transposed
        e = self.weight_exp
        if e:
            total = total.astype(np.int64)
            total = total << e if e > 0 else total >> -e
        self.a_buff = total.astype(np.int32)


class RecordedLIF(LIFReset):
    """LIFReset that counts.

    batch, steps: B and T. first: Lava's time step at which the first sample's first step arrives.
    totals: int64 [M B], a sample's spikes in this layer. counts: int64 [M B, N], by neuron, or None.
    raster: bool [R, T, N], all spikes of the first R <= B samples. All three are memory that processes share.
    """

    def __init__(self, *, steps, first, totals, counts, raster, **neuron):
        super().__init__(reset_interval=steps, reset_offset=first % steps, **neuron)
        for key, value in {"first": first, "totals": totals, "counts": counts, "raster": raster}.items():
            self.proc_params[key] = value


class _Recording:
    """Lava's models call `spiking_activation` once a step for the spikes that they then send."""

    def spiking_activation(self):
        fired = super().spiking_activation()
        p = self.proc_params
        sample, step = divmod(self.time_step - p["first"], self.reset_interval)
        batch = len(fired)
        rows = slice(sample * batch, (sample + 1) * batch)
        if sample >= 0 and rows.stop <= len(p["totals"]):
            p["totals"][rows] += np.count_nonzero(fired, axis=1)
            if p["counts"] is not None:
                p["counts"][rows] += fired
            if sample == 0:
                p["raster"][:, step] = fired[: len(p["raster"])]
        return fired


# Set by hand, as `implements` refuses the subclass of a model; resources and tags are those of Lava's models.
class RecordedLIFFloat(_Recording, PyLifResetModelFloat):
    implements_process = RecordedLIF


class RecordedLIFFixed(_Recording, PyLifResetModelBitAcc):
    implements_process = RecordedLIF
