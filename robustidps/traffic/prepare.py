"""From a data set's name to training, validation and held-out traffic, the same way for a flow, a test and a notebook.

A name is one of `configs/training/*.yaml` (`simulated`, `nsl-kdd`), or a path to a capture-made Parquet file or a table
of yours with a schema file. Each has one honest way to be split: by its official files where it has them, by time where
there is time, by whole captures where they are named. A copy that lacks what its way needs (one official file of two, a
sample without days) is split by `otherwise`, and the report says so. A shuffled split is only made when asked for by
name, because it puts near-copies on both sides.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from robustidps import __version__
from robustidps.errors import ConfigError, DatasetError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import config_file, known_configs, load_yaml, used
from robustidps.traffic.captures_split import capture_split
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.loaders.card import default_folder
from robustidps.traffic.splits import Split, official_split, shuffled_split, temporal_split
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.traffic.simulator import SimulatorSettings

__all__ = [
    "DatasetConfig",
    "dataset_config",
    "evaded_dataset",
    "fingerprint",
    "load_dataset",
    "split_dataset",
    "starve",
]

SplitKind = Literal["temporal", "official", "captures", "shuffled"]


class DatasetConfig(BaseModel):
    """`configs/training/NAME.yaml`: where traffic comes from, how it is split, and which rules judge it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["simulator", "loader", "file"] = Field(description="what gives the traffic")
    loader: str | None = Field(default=None, description="name of the loader, where source is `loader`")
    simulator: dict[str, Any] = Field(
        default_factory=dict, description="SimulatorSettings, where source is `simulator`"
    )
    split: SplitKind = Field(default="temporal", description="how held-out traffic is set apart")
    otherwise: SplitKind | None = Field(
        default=None, description="how a copy is split that lacks the official files or the times that `split` needs"
    )
    train: float = Field(default=0.5, gt=0, lt=1, description="share of the time span that is trained on")
    validation: float = Field(default=0.1, gt=0, lt=1, description="share for validation, after training's")
    gap_s: float = Field(default=0, ge=0, description="seconds left out between the parts")
    gap_rows: int = Field(default=0, ge=0, description="rows left out where a split by captures cuts one")
    rows_per_file: int | None = Field(
        default=None, ge=1, description="about how many rows of each file are read, evenly spread; default all"
    )
    hold_out: HoldOut = Field(default=HoldOut(), description="tools, services and days kept out of training")
    rules: str = Field(default="default", description="rule set in configs/promotion")
    suffix: str = Field(default="", description="registered models are called FAMILY-SUFFIX; empty for flow64")
    description: str = ""

    def model_name(self, family: str) -> str:
        """What a family's registered model is called that is trained on this data set, unless it is told otherwise."""
        return f"{family}-{self.suffix}" if self.suffix else family

    @property
    def has_packets(self) -> bool:
        """Whether the captures that its flows come from are there, so that attacks in them can be altered to evade."""
        return self.source == "simulator"


def dataset_config(dataset: str) -> DatasetConfig:
    """The configuration of a named data set; for a path, that of a file with time.

    Raises:
        ConfigError: neither a known name nor a file.
    """
    if dataset in known_configs("training"):
        return load_yaml(config_file("training", dataset), DatasetConfig)
    path = _table_path(dataset)
    if path is not None:
        stem = "".join(c if c.isalnum() else "_" for c in path.name.split(".")[0].lower()).strip("_")[:40]
        return DatasetConfig(source="file", suffix=stem or "data")
    known = ", ".join(known_configs("training"))
    raise ConfigError(f"no data set {printable(dataset)!r}", remedy=f"known: {known}; or name a Parquet or CSV file")


def _table_path(dataset: str) -> Path | None:
    """The file that `dataset` names, if it names one."""
    with contextlib.suppress(OSError, RuntimeError):  # a name beyond the system's length; a `~` without a home
        path = Path(dataset).expanduser()
        return path if path.is_file() else None
    return None


def load_dataset(
    dataset: str,
    *,
    folder: Path,
    data_dir: Path | None = None,
    schema_file: Path | None = None,
    progress: Progress = silent,
) -> dict[str, TrafficSet]:
    """The traffic of a data set: `{"all": ...}`, or `{"train": ..., "test": ...}` where it has an official split.

    Args:
        folder: where simulated captures are kept.
        data_dir: where a public data set's files lie: a folder, an archive or a file; default is where
            `robustidps data fetch` puts them.
        schema_file: the schema of a table of yours.

    Raises:
        ConfigError, DatasetError, MissingExtraError.
    """
    config = dataset_config(dataset)
    if config.source == "simulator":
        from robustidps.traffic.simulator import SimulatorSettings, simulated_traffic

        settings = SimulatorSettings.model_validate(config.simulator)
        return {"all": simulated_traffic(settings, _simulations(folder, settings), progress=progress)}
    from robustidps.traffic.loaders import load

    if config.source == "loader":
        name, limit = config.loader or dataset, config.rows_per_file
        data_dir = _data_folder(config, dataset, data_dir)
        if data_dir is None:
            raise DatasetError(
                f"{dataset} isn't shipped",
                remedy=f"get it with `robustidps data fetch {name}`, or say where its files lie with --data-dir FOLDER",
            )
        if config.split == "official" and not (config.otherwise and _lacks_a_part(name, data_dir, progress)):
            return {part: load(name, data_dir, part=part, limit=limit, progress=progress) for part in ("train", "test")}
        return {"all": load(name, data_dir, limit=limit, progress=progress)}
    path = Path(dataset).expanduser()
    if schema_file is None and path.suffix == ".parquet":
        return {"all": TrafficSet.read(path)}
    if schema_file is None:
        raise DatasetError("a table needs a schema", where=path, remedy="name one with --schema FILE (docs/data.md)")
    return {"all": load("table", path, schema=schema_file, progress=progress)}


def _simulations(folder: Path, settings: SimulatorSettings) -> Path:
    return used(folder / f"simulated-{settings.digest[:12]}")


def evaded_dataset(
    dataset: str, held_out: TrafficSet, *, folder: Path, seed: int = 0, progress: Progress = silent
) -> TrafficSet | None:
    """The attacks of `held_out` altered to evade; None for a data set that doesn't come as packets.

    Args:
        held_out: rows of the data set's own traffic.
        folder: where simulated captures are kept, as for `load_dataset`.

    Raises:
        ConfigError, DatasetError, CaptureError, MissingExtraError.
    """
    config = dataset_config(dataset)
    if not config.has_packets or not (held_out.labels > 0).any():
        return None
    from robustidps.traffic.evasion import evade
    from robustidps.traffic.simulator import SimulatorSettings, simulate

    settings = SimulatorSettings.model_validate(config.simulator)
    made = simulate(settings, _simulations(folder, settings), progress=progress)
    captures = ((capture, made.truth(day)) for day, capture in enumerate(made.captures))
    return evade(captures, held_out=held_out, seed=seed, progress=progress)


def _data_folder(config: DatasetConfig, dataset: str, data_dir: Path | None) -> Path | None:
    """The folder that was named, else the one a public set was fetched to, if it is there."""
    if data_dir is not None or config.source != "loader":
        return data_dir
    folder = default_folder(config.loader or dataset)
    return folder if folder.is_dir() else None


def _lacks_a_part(name: str, data_dir: Path, progress: Progress) -> bool:
    from robustidps.traffic.loaders import known

    found = known()[name].identify(data_dir, progress=progress)
    return found is not None and not {"train", "test"} <= set(found.parts)


def fingerprint(dataset: str, *, data_dir: Path | None = None, schema_file: Path | None = None) -> str:
    """SHA-256 (hex) of all that decides what `load_dataset` gives, so that a kept result is used for the same alone:
    the configuration, the content of the files named, and names, sizes and times of a public set's files.

    Raises:
        ConfigError: no such data set. DatasetError: a file can't be read.
    """
    config = dataset_config(dataset)
    h = hashlib.sha256(f"{__version__}\n{config.model_dump_json()}\n".encode())
    for path in (_table_path(dataset) if config.source == "file" else None, schema_file):
        if path is not None:
            try:
                with path.open("rb") as file:
                    h.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise DatasetError(f"can't be read: {error.strerror}", where=path) from None
    data_dir = _data_folder(config, dataset, data_dir)
    if data_dir is not None:
        h.update(str(data_dir.absolute()).encode(errors="surrogateescape"))
        for path in sorted(data_dir.rglob("*")) if data_dir.is_dir() else [data_dir]:
            with contextlib.suppress(OSError):  # a link to nothing
                status = path.stat()
                h.update(repr((str(path), status.st_size, status.st_mtime_ns)).encode())
    return h.hexdigest()


def split_dataset(
    parts: dict[str, TrafficSet],
    config: DatasetConfig,
    *,
    split: str | None = None,
    seed: int = 0,
    hold_out: HoldOut | None = None,
) -> Split:
    """Cuts loaded traffic into training, validation and held-out parts as its configuration says.

    Args:
        split: another way than the configuration's, by name; `shuffled` leaks near-copies and says so in the report.
        hold_out: kept out of training besides what the configuration holds out.

    Raises:
        DatasetError: it can't be split that way, or has no tool, service or day of a held-out name.
    """
    kind = split or config.split
    held = config.hold_out | (hold_out or HoldOut())
    if not split and config.otherwise:
        reason = ""
        if kind == "official" and "all" in parts:
            reason = "one of the two official files is missing"
        elif kind == "temporal" and not parts["all"].has_time:
            reason = "rows have neither time nor day"
        if reason:
            made = split_dataset(parts, config, split=config.otherwise, seed=seed, hold_out=hold_out)
            return replace(made, report=replace(made.report, notes=[f"not {kind}: {reason}", *made.report.notes]))
    if kind == "official":
        if set(parts) != {"train", "test"}:
            raise DatasetError("has no official split", remedy="use --split temporal")
        return official_split(parts["train"], parts["test"], validation=config.validation, seed=seed, hold_out=held)
    whole = parts["all"] if "all" in parts else TrafficSet.concat(parts.values())
    if kind == "temporal":
        return temporal_split(
            whole, train=config.train, validation=config.validation, gap_s=config.gap_s, hold_out=held
        )
    if kind == "captures":
        return capture_split(
            whole,
            train=config.train,
            validation=config.validation,
            gap_rows=config.gap_rows,
            seed=seed,
            hold_out=held,
        )
    if kind == "shuffled":
        return shuffled_split(whole, train=config.train, validation=config.validation, seed=seed, hold_out=held)
    raise ConfigError(f"no split {printable(kind)!r}", remedy="known: temporal, official, captures, shuffled")


def starve(traffic: TrafficSet, rows: int, seed: int) -> TrafficSet:
    """A random sample of at most `rows` rows, in their order: for learning curves, and for candidates meant to fail."""
    if rows >= len(traffic):
        return traffic
    chosen = np.sort(np.random.default_rng(seed).choice(len(traffic), rows, replace=False))
    return traffic.select(chosen)
