"""A registered spiking model on Intel's Loihi: simulated, shown to be the same model, and sized for the chip.

    subject.py     what is exported: the network from the bundle's NIR file, and the torch model that it must equal
    quantising.py  floating point to the integers that Loihi computes with, calibrated on training traffic
    emulator.py    that integer arithmetic in NumPy, step by step as Lava does it
    runner.py      Lava's simulation itself, in its own Python (deployments/loihi), as a confined process group
    resources.py   cores, operations, energy and time on the chip; all published constants in one table
    parity.py      the comparisons, and what they come to
    report.py      the report as data and as Markdown               plots.py    its pictures
    gate.py        whether a version may be called `loihi`          exporting.py  all of it in one call

Three simulations of the same rows are set against each other. torch in float64 against Lava in floating point: the
network was carried over whole. The emulator against Lava in fixed point: the integers mean what we think. Fixed point
against floating point: what quantising costs. docs/neuromorphic.md has the story in words.
"""
