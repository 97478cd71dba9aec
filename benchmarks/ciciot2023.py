"""CIC-IoT-2023, a capped sample in ten families: the neural ODE over seeds beside a boosted tree on the same rows.

    python -m benchmarks ciciot2023 [--data-dir FOLDER] [--seeds 3] [--write]

The split is `robustidps train`'s own (`configs/training/ciciot2023.yaml`). Nothing was chosen on this set: both run as
they are configured for all data, and the test rows are looked at once a table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks._beside import compared, trained
from benchmarks._pages import ROOT, circumstances, write_section
from robustidps.traffic.prepare import dataset_config, load_dataset, split_dataset

MINUTES = 6


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ciciot2023",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-dir", type=Path, default=ROOT / "../shared/data/ciciot2023", help="folder, archive or file"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the neural ODE")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = load_dataset("ciciot2023", folder=Path(folder), data_dir=arguments.data_dir)
    split = split_dataset(parts, dataset_config("ciciot2023"))
    facts = parts["all"].provenance
    said = [*split.report.notes, *facts["notes"]]
    text = "\n\n".join(
        [
            f"{facts['release'][:1].upper()}{facts['release'][1:]}.",
            compared(split, "ciciot2023", *trained(split, arguments.seeds), rows="held-out windows"),
            "Said by loader and split: " + "; ".join(dict.fromkeys(said)) + ".",
            circumstances("python -m benchmarks ciciot2023 --write"),
        ]
    )
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'ciciot2023', text)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
