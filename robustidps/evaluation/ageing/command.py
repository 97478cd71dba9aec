"""What `robustidps ageing` does: traffic, a study of it, a picture and the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustidps.errors import printable
from robustidps.evaluation.ageing.picture import draw_ageing
from robustidps.evaluation.ageing.scenario import Change, changes, scenario, scenario_traffic, study_settings
from robustidps.evaluation.ageing.settings import AgeingSettings
from robustidps.evaluation.ageing.study import Ageing, check_policies, study, timeline
from robustidps.families import get_family
from robustidps.progress import current
from robustidps.settings import Settings, writable
from robustidps.traffic.prepare import load_dataset
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Aged", "age"]


@dataclass(frozen=True)
class Aged:
    """A study and the files it was written to."""

    study: Ageing
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        return self.study.as_dict() | {"files": [str(file) for file in self.files]}


def age(
    installation: Settings,
    *,
    dataset: str | None,
    data_dir: Path | None,
    schema_file: Path | None,
    scenario_name: str,
    family: str,
    overrides: dict[str, Any],
    policies: Sequence[str],
    out: Path | None,
    **settings: Any,
) -> Aged:
    """Studies a labelled table or a simulated scenario; writes `ageing.png` and `ageing.json` to `out`.

    Args:
        dataset: a data set's name, a Parquet file or a table with `schema_file`; None for the scenario.
        overrides: settings of the family. settings: those of `AgeingSettings`.

    Raises:
        ConfigError, DatasetError, MissingExtraError, StorageError.
    """
    chosen = AgeingSettings.make(**settings)
    check_policies(policies)
    kind = get_family(family)
    family_settings = study_settings(kind, overrides)
    progress = current()
    known: tuple[Change, ...] = ()
    if dataset is None:
        world = scenario(scenario_name)
        world = world.model_copy(update={"seed": world.seed + chosen.seed})
        known, subject = changes(world), f"{family}, simulated ({scenario_name})"
        traffic = scenario_traffic(world, installation.folder("captures"), progress=progress)
    else:
        parts = load_dataset(
            dataset,
            folder=installation.folder("captures"),
            data_dir=data_dir,
            schema_file=schema_file,
            progress=progress,
        )
        traffic = parts["all"] if "all" in parts else TrafficSet.concat(parts.values())
        subject = f"{family}, {printable(Path(dataset).name, 60)}"
    timeline(traffic, chosen)  # before anything slow: traffic that can't be walked through ends here
    made = study(traffic, kind, family_settings, chosen, policies=policies, changes=known, progress=progress)
    folder = out or installation.folder("reports", "ageing")
    subject += f", {chosen.labels_per_day} labels a day"
    picture = draw_ageing([made], folder / "ageing.png", subject=subject)
    return Aged(made, (picture, _write(made, folder / "ageing.json")))


def _write(made: Ageing, path: Path) -> Path:
    part = path.with_name(f"{path.name}.part")
    with writable(path):
        try:
            part.write_text(json.dumps(made.as_dict(), indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path
