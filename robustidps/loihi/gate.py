"""Whether a version may take the alias `loihi`: what its report has to show, each requirement a sentence.

Pure: a report in, requirements out. `ModelRegistry.take_alias` records what came of it, refusals included.
"""

from __future__ import annotations

from typing import Any

from robustidps.loihi.report import LoihiReport, Requirement

__all__ = ["AGREEMENT", "ROUNDING", "ROWS", "requirements", "verdict"]

ROWS = 500
"""Fewer rows say too little: of 500, 97 % has a standard error of 0.8 points."""
ROUNDING = 1e-3
"""Share of rows whose class rounding may change, at a tie or threshold: far more than was ever seen (none of 2,000)."""
AGREEMENT = 0.97


def requirements(report: LoihiReport, *, trained_on: str | None) -> list[Requirement]:
    """What the report shows.

    Args:
        trained_on: digest of the traffic that the version learnt from; being judged on that counts for nothing.
    """
    f, e, agreement = report.floating, report.emulator, report.cost.agreement.value
    chips = [chip.chip for chip in report.on_chip if chip.refusal is None]
    seen = trained_on == report.data_digest
    at_most = ROUNDING * f.rows
    return [
        Requirement(
            name="enough rows that it has not seen",
            passed=report.rows >= ROWS and not seen,
            text=f"{report.rows:,} rows, at least {ROWS}" + (", and they are those it was trained on" if seen else ""),
        ),
        Requirement(
            name="Lava in floating point is the trained model",
            passed=f.rows > 0 and f.unexplained == 0 and f.classes_differing <= at_most,
            text=f"{f.unexplained} rows differ beyond rounding, none may; {f.classes_differing} classes differ by "
            f"rounding at a tie or threshold, at most {at_most:g} may",
        ),
        Requirement(
            name="Lava in fixed point is the emulator",
            passed=e.rows > 0 and e.rows_differing == e.spikes_differing == e.classes_differing == 0,
            text=f"{e.spikes_differing} of {e.spikes:,} spikes differ, none may",
        ),
        Requirement(
            name="fixed point decides as floating point does",
            passed=agreement is not None and agreement >= AGREEMENT,
            text=f"{report.cost.agreement} of rows get the same class, at least {AGREEMENT:g}",
        ),
        Requirement(
            name="it fits a chip",
            passed=bool(chips),
            text=", ".join(chips) or "none",
        ),
    ]


def verdict(report: LoihiReport) -> dict[str, Any]:
    """The outcome as the registry takes it: `promote` where every requirement is met, else `reject`."""
    said = [f"{r.name}: {r.text}" for r in report.requirements if report.passed or not r.passed]
    return {"outcome": "promote" if report.passed else "reject", "reasons": said or ["nothing was required of it"]}
