"""Data sets in, `TrafficSet` out: one loader per public set, and one for any table with a schema file.

    known()                     the loaders, by name
    recognise(path)             which of them knows this file or folder, and as which release
    load(name, path, part=..)   rows of one part, checked against the release

All loaders have the shape of `Loader` (base.py): they refuse what fits no release they know, with the file, row and
column in the message, and write into the set's provenance what they dropped and why. A set's columns, labels,
releases and terms are in `configs/datasets/NAME.yaml`; its card, for people, in `data/NAME.md`.
"""

from __future__ import annotations

from pathlib import Path

from robustidps.errors import NotFoundError, printable
from robustidps.progress import Progress, silent
from robustidps.traffic.loaders.base import Loader, Recognised
from robustidps.traffic.loaders.nsl_kdd import NslKdd
from robustidps.traffic.loaders.table import Table, TableSpec
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Loader", "Recognised", "TableSpec", "known", "load", "recognise"]


def known() -> dict[str, Loader]:
    """The loaders by name."""
    return {loader.name: loader for loader in (NslKdd(), Table())}


def recognise(path: Path | str) -> Recognised | None:
    """The first loader that knows what lies at `path`, or None. Raises nothing for a file of any content."""
    return next((found for loader in known().values() if (found := loader.recognise(Path(path)))), None)


def load(
    name: str,
    path: Path | str,
    *,
    part: str | None = None,
    schema: Path | str | TableSpec | None = None,
    progress: Progress = silent,
) -> TrafficSet:
    """Rows of a data set.

    Args:
        name: one of `known()`.
        path: a file (also .gz), or the folder that holds the set's files.
        part: which of the set's parts ("train", "test"); needed where `path` holds several.
        schema: for `table`: the file that says what the columns are, or its content.

    Raises:
        NotFoundError: no such loader. DatasetError, SchemaError: the file isn't what it should be.
        ConfigError: the schema file doesn't hold a schema.
    """
    loaders = known()
    if name not in loaders:
        raise NotFoundError(f"no data set '{printable(name, 60)}'", remedy=f"known: {', '.join(loaders)}")
    return loaders[name].load(Path(path), part=part, schema=schema, progress=progress)
