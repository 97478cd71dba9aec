"""How detection ages: labelled traffic of weeks or months is walked through day by day, under several policies of
renewing the model, each with the same budget of labels.

    curve      area under time (AUT), and a metric's curve over slots of days, with intervals
    labels     `LabelDesk`: sells the labels of rows, so many a day, and hands them over after a delay
    learner    trains models for policies, with the product's own training, and counts what that takes
    policies   frozen; retrained by the calendar; the loop (drift or measured decline -> challenger -> promotion rules)
    study      the walk itself, and what comes of it
    picture    the curves as one picture

The order is strict. A day's flows are scored by the model that stood before any of that day's labels could be bought;
then the policy buys labels for some of its rows, sees those bought `delay_days` ago, and may put another model in
place for the next day. A policy is given traffic without labels, campaigns and tools; there is no way for it to read
a label but to buy it and wait.

After Pendlebury et al., "TESSERACT: Eliminating Experimental Bias in Malware Classification across Space and Time",
USENIX Security 2019, whose constraints on honest evaluation over time are answered in `docs/evaluation.md`.
"""

from robustidps.evaluation.ageing.curve import Curve, aut
from robustidps.evaluation.ageing.labels import LabelDesk
from robustidps.evaluation.ageing.policies import POLICIES
from robustidps.evaluation.ageing.settings import AgeingSettings, LoopSettings
from robustidps.evaluation.ageing.study import Ageing, Walk, study

__all__ = ["POLICIES", "Ageing", "AgeingSettings", "Curve", "LabelDesk", "LoopSettings", "Walk", "aut", "study"]
