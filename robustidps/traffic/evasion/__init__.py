"""Attacks that try not to be seen: their packets perturbed within what protocols allow, and read by the extractor.

    packets    a capture's attack packets as a table, and back into a capture with right lengths and checksums
    roles      whose packets the attacker makes, and what protocols leave him room for
    perturb    padding, delay, splitting, chaff, and all four: light and heavy
    evade      captures and truth -> a TrafficSet of the attacks unchanged and under each perturbation, with its cost

What models make of it is measured by `robustidps.evaluation.evasion`; docs/evaluation.md says who the attacker is.
"""

from __future__ import annotations

from robustidps.traffic.evasion.evade import EVASION_VERSION, evade
from robustidps.traffic.evasion.perturb import PERTURBATIONS, UNCHANGED

__all__ = ["EVASION_VERSION", "PERTURBATIONS", "UNCHANGED", "evade"]
