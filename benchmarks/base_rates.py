"""Base rates: what the alerts of the neural ODE, trained on simulated traffic, would come to in a network.

    python -m benchmarks base_rates [--alerts-per-analyst 48] [--write]

The model and the six held-out days are those of `python -m benchmarks simulated`, seed 0. `--write` rewrites the
section of docs/results.md, and docs/images/base_rates.png.
"""

from __future__ import annotations

import argparse

from benchmarks._models import neural_ode
from benchmarks._pages import ROOT, circumstances, table, write_section
from benchmarks._splits import split_of
from robustidps.evaluation.base_rates import BaseRates, amount, base_rates, one_in
from robustidps.evaluation.plots import draw_base_rates, save_figure
from robustidps.settings import Settings

MINUTES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks base_rates", description=__doc__)
    capacity = Settings.model_fields["alerts_per_analyst"].default
    parser.add_argument("--alerts-per-analyst", type=float, default=capacity, help="what one can look at in a day")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md and its picture")
    arguments = parser.parse_args()
    split = split_of("simulated")
    evaluation, _ = neural_ode(split, seed=0).judged(split.test, "simulated")
    evaluation = evaluation.model_copy(update={"model": "neural_ode", "version": "seed 0"})
    rates = base_rates(evaluation, arguments.alerts_per_analyst)
    lead = (
        f"`neural_ode`, seed 0, {evaluation.rows:,} held-out flows: `alert_recall` "
        f"{evaluation.headline['alert_recall']}, `alert_false_positive_rate` "
        f"{evaluation.headline['alert_false_positive_rate']}."
    )
    text = "\n\n".join([lead, *report(rates), circumstances("python -m benchmarks base_rates --write")])
    print(text)
    if arguments.write:
        print(f"written: {write_section('results.md', 'base_rates', text)}")
        picture = ROOT / "docs" / "images" / "base_rates.png"
        print(f"written: {save_figure(draw_base_rates(evaluation, rates), picture)}")
    return 0


def report(rates: BaseRates) -> list[str]:
    """What an alert is worth, then a day at each volume, then what has to be known to read them; in Markdown."""
    volumes = sorted({row.flows_per_day for row in rates.rows})
    worth = [
        [one_in(r.prevalence), rates.precision(r), rates.attacks_looked_at(r)] for r in rates.for_flows(volumes[0])
    ]
    header = ["flows that are attacks", "alerts that are", f"attacks among {amount(rates.alerts_per_analyst)} alerts"]
    found = [table(header, worth)]
    for flows in volumes:
        rows = [
            [
                one_in(row.prevalence),
                rates.count(row.true_alerts, exact=True),
                rates.count(row.missed, exact=True),
                *(rates.count(figure) for figure in (row.false_alerts, row.alerts, row.analysts)),
            ]
            for row in rates.for_flows(flows)
        ]
        found.append(table([f"{flows:,} flows a day", "found", "missed", "false alerts", "alerts", "analysts"], rows))
    return [*found, "\n".join(f"- {note}" for note in rates.notes)]


if __name__ == "__main__":
    raise SystemExit(main())
