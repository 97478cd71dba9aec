"""Runs a spiking network in Lava's simulation of Intel's Loihi, for RobustIDPS, in the Python that Lava needs.

    __main__.py   the command: a folder with request and inputs in, results in the same folder out
    network.py    NIR graph to a network of Lava processes, by walking its edges; running it
    processes/    the processes that Lava lacks: a source, and connections for many samples at once

Nothing here is imported by RobustIDPS, which starts `python -m robustidps_loihi` and reads files.
"""

PROTOCOL = 1
"""What request and results look like; RobustIDPS refuses a runner that has another."""
