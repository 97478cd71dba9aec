"""The report that goes with a version to the hardware: as data (`report.json`) and as Markdown (`report.md`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from robustidps.loihi.parity import Cost, FixedParity, FloatParity
from robustidps.loihi.resources import CONSTANTS, Claim, OnChip, Operations, Running

__all__ = ["LoihiReport", "QuantisedLayer", "Requirement", "markdown"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QuantisedLayer(_Frozen):
    """A layer in integers, and what happened in it over all rows, neurons and steps.

    scale: integers to a unit of potential. share: of the largest weight, from where on weights are cut off; cut: how
    many were, biases among them. overflowed: currents beyond 24 bits. saturated: potentials beyond 24 bits.
    """

    neurons: int
    scale: float
    threshold: int
    share: float
    cut: int
    overflowed: int
    saturated: int


class Requirement(_Frozen):
    """One of the things that a version has to show before it may be called `loihi`."""

    name: str
    passed: bool
    text: str


class LoihiReport(_Frozen):
    """One version, simulated on one held-out set."""

    format_version: Literal[1] = 1
    model: str
    version: str
    bundle_digest: str
    nir_sha256: str
    sizes: list[int] = Field(description="inputs (two a feature under latency coding), then neurons of each layer")
    steps: int
    coding: Literal["direct", "latency"]
    dataset: str
    data_digest: str
    rows: int
    rows_available: int
    calibration_digest: str
    calibration_rows: int
    software: dict[str, str]
    deployed_classes_differing: int = Field(description="rows whose class in ONNX Runtime isn't torch's in float64")
    floating: FloatParity
    emulator: FixedParity
    cost: Cost
    layers: list[QuantisedLayer]
    inputs_cut: int = Field(description="graded input values beyond what can't overflow")
    operations: Operations
    on_chip: list[OnChip]
    running: Running
    claims: list[Claim]
    requirements: list[Requirement] = Field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing stands against the alias `loihi`."""
        return bool(self.requirements) and all(r.passed for r in self.requirements)

    def figures(self) -> dict[str, float]:
        """The report's main figures, flat, for MLflow."""
        found = {
            "agreement": self.cost.agreement.value,
            "accuracy_floating": self.cost.accuracy_floating.value,
            "accuracy_fixed": self.cost.accuracy_fixed.value,
            "accuracy_difference": self.cost.accuracy_difference.value,
            "float_classes_differing": self.floating.classes_differing,
            "emulator_spikes_differing": self.emulator.spikes_differing,
            "spikes": sum(self.operations.spikes),
            "synaptic_operations": self.operations.synaptic_sum,
            "neuron_updates": self.operations.updates,
            "energy_uj_estimate": self.running.energy_uj,
        }
        found |= {f"cores.{chip.chip.replace(' ', '_')}": chip.cores for chip in self.on_chip}
        return {name: float(value) for name, value in found.items() if value is not None}


def markdown(report: LoihiReport) -> str:
    """The report in words and tables."""
    r = report
    shape = "-".join(map(str, r.sizes))
    parts = [
        f"# {r.model} {r.version} on Loihi, simulated",
        f"{shape}, {r.steps} steps, {r.coding} coding. {r.rows:,} of {r.rows_available:,} rows of {r.dataset} "
        f"(`{r.data_digest[:12]}`), quantised on {r.calibration_rows:,} rows of training traffic "
        f"(`{r.calibration_digest[:12]}`). Bundle `{r.bundle_digest[:12]}`, NIR file `{r.nir_sha256[:12]}`. "
        + ", ".join(f"{name} {version}" for name, version in r.software.items())
        + ".",
        "## May it be called `loihi`?",
        _table(["", "requirement", "found"], [["yes" if q.passed else "NO", q.name, q.text] for q in r.requirements]),
        "## Is it the same model?",
        _same(r),
        "## What does quantising cost?",
        _cost(r),
        "## What does it take?",
        _takes(r),
        "## What was claimed",
        _table(["claim of the guide", "verdict", "because"], [[c.text, c.verdict, c.why] for c in r.claims]),
        "## Published figures used",
        _table(
            ["chip", "figure", "", "source"],
            [
                [chip, name, f"{c.value:,g} {c.unit}".strip(), c.source]
                for chip, constants in CONSTANTS.items()
                for name, c in constants.items()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _same(r: LoihiReport) -> str:
    f, e = r.floating, r.emulator
    rows: list[list[Any]] = [
        ["torch (float64), Lava (floating point)", f"{f.spikes:,}", f.spikes_differing, f.classes_differing],
        ["emulator (int64), Lava (fixed point)", f"{e.spikes:,}", e.spikes_differing, e.classes_differing],
    ]
    text = (
        f"{f.rows_differing} rows differ in floating point, {f.rows_differing - f.unexplained} of them where a "
        f"potential came within {f.tolerance:g} of a threshold (rounding), {f.unexplained} for no such reason; "
        f"{f.classes_at_ties} of the classes that differ are ties decided otherwise. In service (ONNX Runtime, "
        f"float32) {r.deployed_classes_differing} of {r.rows:,} rows get another class than in float64."
    )
    return _table(["compared", "spikes", "that differ", "classes that differ"], rows) + "\n\n" + text


def _cost(r: LoihiReport) -> str:
    c = r.cost
    rows: list[list[Any]] = [
        ["same class as in floating point", "", c.agreement],
        ["the same, of rows without a tie", "", c.agreement_untied],
        ["accuracy", c.accuracy_floating, c.accuracy_fixed],
        *[[f"recall of {name} ({k.support:,} rows)", k.floating, k.fixed] for name, k in c.classes.items()],
        ["rows with a tie for most spikes", f"{c.ties_floating:,}", f"{c.ties_fixed:,}"],
    ]
    layers = [
        [k, q.neurons, f"{q.scale:.0f}", q.threshold, f"{q.share:g}", q.cut, q.overflowed, q.saturated]
        for k, q in enumerate(r.layers)
    ]
    head = ["layer", "neurons", "scale", "threshold", "largest weight kept", "cut off", "overflows", "saturated"]
    return "\n\n".join(
        (
            _table(["", "floating point", "fixed point"], rows),
            f"Accuracy changes by {c.accuracy_difference:+.4f}. Intervals: 95 %, resampled by {c.blocks}.",
            _table(head, layers),
            f"{r.inputs_cut:,} input values were cut off. Overflows and saturation are counted over all rows, neurons "
            "and steps.",
        )
    )


def _takes(r: LoihiReport) -> str:
    o, e = r.operations, r.running
    chips = [
        [c.chip, "-" if c.cores is None else f"{c.cores} of {c.available}", c.refusal or "fits"] for c in r.on_chip
    ]
    layers = [
        [c.chip, k, q.neurons, q.inputs, f"{q.bytes:,}", q.cores_by_neurons, q.cores_by_memory, q.cores]
        for c in r.on_chip
        for k, q in enumerate(c.layers)
    ]
    work = [
        [k, f"{spikes:,.1f}", f"{synaptic:,.0f}"]
        for k, (spikes, synaptic) in enumerate(zip(o.spikes, o.synaptic, strict=True))
    ]
    head = ["chip", "layer", "neurons", "inputs", "weights, bytes", "cores by neurons", "cores by memory", "cores"]
    lines = [
        f"- energy, **an estimate**: {e.energy_uj:.2f} uJ a sample for synaptic operations and neuron updates at Loihi "
        "1's published figures",
        f"- which leaves out: {'; '.join(e.left_out)}",
        f"- latency: {o.steps} steps, {e.shortest_ms:.4f} ms at the shortest step that was published",
    ]
    if e.step_us is not None:
        lines += [
            f"- at the published time of each operation (at most): {e.step_us:.2f} us a step, {e.latency_ms:.3f} ms a "
            f"sample, {e.dynamic_mw:.2f} mW for those operations",
            f"- leakage of a whole chip meanwhile: {e.leakage_uj:.1f} uJ ({e.leakage_mw:.0f} mW)",
        ]
    else:
        lines.append("- time of an operation: published for Loihi 1 alone, which this network doesn't fit")
    return "\n\n".join(
        (
            _table(["chip", "cores", ""], chips),
            _table(head, layers),
            f"As measured in fixed point, per sample; neuron updates: {o.updates:,}.",
            _table(["layer", "spikes", "synaptic operations"], work),
            "\n".join(lines),
        )
    )


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *[[str(cell).replace("|", "/") for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
