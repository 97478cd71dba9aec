"""Tasks that make, read and split traffic. Simulation and ingest are cached by their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task

from robustidps.progress import current
from robustidps.settings import get_settings
from robustidps.tasks.options import CACHED, PLAIN
from robustidps.tasks.references import TrafficRef, store
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.prepare import dataset_config, evaded_dataset, load_dataset, split_dataset, starve

__all__ = ["evade_traffic", "evaded", "ingest_capture", "ingest_file", "load_traffic", "split_traffic", "usable"]


@task(name="load traffic", **CACHED)
def load_traffic(
    dataset: str, data_dir: str | None = None, schema_file: str | None = None, *, content: str
) -> dict[str, Any]:
    """Simulates or reads a data set; gives references to its parts (`all`, or `train` and `test`).

    Args:
        content: `prepare.fingerprint` of the data set; makes the cache notice another content under the same name.
    """
    parts = load_dataset(
        dataset,
        data_dir=Path(data_dir) if data_dir else None,
        schema_file=Path(schema_file) if schema_file else None,
        folder=get_settings().folder("captures"),
        progress=current(),
    )
    folder = get_settings().folder("traffic")
    return {name: store(part, folder, name).model_dump() for name, part in parts.items()}


@task(name="ingest capture", retries=1, **CACHED)
def ingest_capture(path: str, sha256: str, truncated: str = "refuse") -> dict[str, Any]:
    """Flows of a packet capture, as a reference; `sha256` of the file makes the cache notice another content."""
    from robustidps.traffic.capture import ingest

    traffic = ingest(Path(path), truncated=truncated, progress=current())  # type: ignore[arg-type]
    return store(traffic, get_settings().folder("traffic"), "ingested").model_dump()


def ingest_file(path: Path) -> dict[str, Any]:
    """`ingest_capture` of a file as it is now; a cached result whose flows are gone is made again."""
    import hashlib

    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found: dict[str, Any] = ingest_capture(str(path), sha256)
    if not TrafficRef.model_validate(found).usable:
        found = ingest_capture.with_options(refresh_cache=True)(str(path), sha256)
    return found


@task(name="split traffic", **PLAIN)
def split_traffic(
    parts: dict[str, Any],
    dataset: str,
    split: str | None = None,
    seed: int = 0,
    limit_rows: int | None = None,
    hold_out: list[str] | None = None,
) -> dict[str, Any]:
    """Training, validation and held-out parts that don't leak into each other, with the report of how they were cut."""
    from robustidps.tasks.references import load

    cut = split_dataset(
        {k: load(v) for k, v in parts.items()},
        dataset_config(dataset),
        split=split,
        seed=seed,
        hold_out=HoldOut.parse(hold_out or []),
    )
    folder = get_settings().folder("traffic")
    train = starve(cut.train, limit_rows, seed) if limit_rows else cut.train
    references = {"train": train, "validation": cut.validation, "test": cut.test}
    return {name: store(part, folder, name).model_dump() for name, part in references.items()} | {
        "report": cut.report.to_dict() | {"text": str(cut.report)}
    }


@task(name="evade", **CACHED)
def evade_traffic(dataset: str, held_out: dict[str, Any], *, content: str) -> dict[str, Any] | None:
    """The held-out attacks altered to evade, as a reference; None where the data set doesn't come as packets.

    Args:
        content: `prepare.fingerprint` of the data set and the version of the perturbations, for the cache to notice.
    """
    from robustidps.tasks.references import load

    made = evaded_dataset(dataset, load(held_out), folder=get_settings().folder("captures"), progress=current())
    return None if made is None else store(made, get_settings().folder("traffic"), "evaded").model_dump()


def evaded(dataset: str, held_out: dict[str, Any], content: str) -> dict[str, Any] | None:
    """`evade_traffic` where there are packets; a cached result whose file is gone is made again."""
    from robustidps.traffic.evasion import EVASION_VERSION

    if not dataset_config(dataset).has_packets:
        return None
    content = f"{content} {EVASION_VERSION}"
    found: dict[str, Any] | None = evade_traffic(dataset, held_out, content=content)
    if found is not None and not TrafficRef.model_validate(found).usable:
        found = evade_traffic.with_options(refresh_cache=True)(dataset, held_out, content=content)
    return found


def usable(parts: dict[str, Any]) -> bool:
    """Whether the files that a cached result names are all still there."""
    return all(TrafficRef.model_validate(part).usable for part in parts.values())
