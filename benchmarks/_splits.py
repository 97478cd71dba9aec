"""Data sets as `robustidps train` cuts them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from robustidps.traffic.prepare import dataset_config, load_dataset, split_dataset
from robustidps.traffic.splits import Split


def split_of(dataset: str, folder: Path | None = None, data_dir: Path | None = None) -> Split:
    """A data set by its name in `configs/training`.

    Args:
        folder: where captures that are simulated stay; default: nowhere.
        data_dir: a public data set's files.

    Raises:
        RobustIDPSError: its files aren't there.
    """
    with tempfile.TemporaryDirectory() as passing:
        parts = load_dataset(dataset, folder=folder or Path(passing), data_dir=data_dir)
    return split_dataset(parts, dataset_config(dataset))
