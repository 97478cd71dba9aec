"""A split by whole captures, for sets whose files are captures: those of a class that has too few are cut, with a gap.

Rows of one capture resemble each other more than rows of two, so a capture belongs on one side. A class with three
captures or more is split that way. One with fewer has its captures cut into `PIECES` in the order of the file, and
`gap_rows` rows are left out at each cut, so that what was going on across it is on neither side: less honest than
whole captures, and the report says for which classes. Where no capture is named, identical rows are all that can be
kept together, and the report says what that is worth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.splits import PARTS, Split, group_split, shuffled_split
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["PIECES", "capture_split"]

PIECES = 5
"""Pieces a capture is cut into: three for training, one for validation, one for test at the usual shares."""


def capture_split(
    traffic: TrafficSet,
    *,
    train: float = 0.6,
    validation: float = 0.2,
    gap_rows: int = 0,
    seed: int = 0,
    hold_out: HoldOut | None = None,
) -> Split:
    """Whole captures (`TrafficSet.campaign`) on one side; see the module's text.

    Args:
        train, validation: shares of each class, as near as whole captures and pieces allow.
        gap_rows: rows left out after each cut within a capture.
        hold_out: what is in the test part whatever is drawn; captures and pieces with such a row go there whole.

    Raises:
        DatasetError: a part stays empty, a held-out name doesn't occur.
    """
    campaign = traffic.campaign.astype(str)
    if not (campaign != "").any():
        split = shuffled_split(traffic, train=train, validation=validation, seed=seed, hold_out=hold_out)
        note = (
            "no capture is named: identical rows are on one side, but rows of one capture lie on both, so figures "
            "flatter the model"
        )
        return replace(split, report=replace(split.report, kind="rows", notes=[note, *split.report.notes[1:]]))
    pieces = np.array(campaign, dtype=object)
    gone = np.zeros(len(traffic), bool)
    cut = []
    for label, name in enumerate(traffic.schema.classes):
        rows = (traffic.labels == label) & (campaign != "")
        captures = np.unique(campaign[rows])
        if not 0 < len(captures) < len(PARTS):
            continue
        cut.append(name)
        for capture in captures:
            here = np.flatnonzero(rows & (campaign == capture))
            for number, piece in enumerate(np.array_split(here, PIECES), start=1):
                pieces[piece] = f"{capture}, {name}, piece {number} of {PIECES}"
                if number > 1:
                    gone[piece[:gap_rows]] = True
    split = group_split(
        replace(traffic, campaign=pieces).select(~gone),
        by="campaign",
        train=train,
        validation=validation,
        seed=seed,
        hold_out=hold_out,
    )
    report, notes = split.report, list(split.report.notes)
    if cut:
        notes.insert(0, f"{', '.join(cut)}: too few captures for whole ones on each side; theirs were cut with a gap")
        names, counts = np.unique(traffic.labels[gone], return_counts=True)
        lost = {traffic.schema.classes[c]: int(n) for c, n in zip(names, counts, strict=True)}
        report = replace(report, dropped={"in the gap where a capture was cut": lost, **report.dropped})
    parameters = report.parameters | {"gap_rows": gap_rows}
    return replace(split, report=replace(report, kind="captures", notes=notes, parameters=parameters))
