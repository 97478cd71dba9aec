"""python -m robustidps_loihi.one_by_one FOLDER: Lava's own Dense and LIF, a network and a run for every sample.

The plain way, hundreds of times slower; what `network.py` is compared with for speed and, spike for spike, in tests.
Takes what the runner takes, and writes `one_by_one.npz`: counts int64 [N, C] and seconds [N].
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from robustidps_loihi.network import _layers, settings_of


def counts_of(graph, sample, fixed):
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi1SimCfg
    from lava.proc.dense.process import Dense
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source
    from lava.proc.lif.process import LIFReset

    dt, steps, spikes = settings_of(graph)
    layers = list(_layers(graph, dt, fixed))
    total = steps + len(layers)
    given = np.zeros((len(sample), total))
    given[:, :steps] = sample[:, None] == np.arange(steps) if spikes else sample[:, None]
    before = source = Source(data=given)
    for k, (weights, weight_exp, neuron) in enumerate(layers):
        bits = 24 if k == 0 and not spikes else 0
        dense = Dense(weights=weights, weight_exp=weight_exp, num_message_bits=bits)
        # A bias acts while spikes still fill the pipeline: potentials begin anew when the first arrive.
        lif = LIFReset(shape=(len(weights),), reset_interval=total + 1, reset_offset=k + 2, **neuron)
        before.s_out.connect(dense.s_in)
        dense.a_out.connect(lif.a_in)
        before = lif
    sink = Sink(shape=(len(layers[-1][0]),), buffer=total)
    before.s_out.connect(sink.a_in)
    tag = "floating_pt" if fixed is None else "fixed_pt"
    try:
        source.run(condition=RunSteps(num_steps=total), run_cfg=Loihi1SimCfg(select_tag=tag))
        fired = sink.data.get()
    finally:
        source.stop()
    return fired[:, len(layers) :].sum(axis=1).astype(np.int64)


def main():
    import nir

    folder = Path(sys.argv[1])
    mode = json.loads((folder / "request.json").read_text(encoding="utf-8"))["mode"]
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    data = arrays.pop("data")
    graph = nir.read(folder / "model.nir")
    counts, seconds = [], []
    for sample in data:
        started = time.perf_counter()
        counts.append(counts_of(graph, sample, arrays if mode == "fixed" else None))
        seconds.append(time.perf_counter() - started)
    np.savez(folder / "one_by_one.npz", counts=np.stack(counts), seconds=np.array(seconds))


if __name__ == "__main__":
    main()
