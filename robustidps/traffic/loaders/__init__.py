"""Data sets in, `TrafficSet` out: one loader for the public sets, and one for any table with a schema file.

    known()                     the loaders, by name
    identify(path)              which of them knows this file or folder, and as which release
    load(name, path, part=..)   rows of one part, checked against the release

All loaders have the shape of `Loader` (base.py): they refuse what fits no release they know, with the file, row and
column in the message, and write into the set's provenance what they dropped and why. A public set is a file,
`configs/datasets/NAME.yaml`, with its columns, labels, releases and terms; its card, for people, is `data/NAME.md`.
"""

from __future__ import annotations

from pathlib import Path

from robustidps.errors import DatasetError, NotFoundError, printable
from robustidps.progress import Progress, silent
from robustidps.traffic.loaders.base import Loader, Recognised
from robustidps.traffic.loaders.public import PublicSet
from robustidps.traffic.loaders.table import Table, TableSpec
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["Loader", "Recognised", "TableSpec", "identify", "known", "load", "recognise"]

PUBLIC = ("nsl_kdd", "unsw_nb15", "cic_ids2017", "ciciot2023")


def known() -> dict[str, Loader]:
    """The loaders by name."""
    loaders: list[Loader] = [*map(PublicSet, PUBLIC), Table()]
    return {loader.name: loader for loader in loaders}


def identify(path: Path | str, *, progress: Progress = silent) -> Recognised:
    """The first loader that knows what lies at `path`.

    Raises:
        DatasetError: none does; with the reason of the one that came nearest.
    """
    problems = []
    for loader in known().values():
        try:
            if (found := loader.identify(Path(path), progress=progress)) is not None:
                return found
        except DatasetError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    raise DatasetError(
        "is no release of a data set that we know", where=path, remedy=f"known: {', '.join(known())} (docs/data.md)"
    )


def recognise(path: Path | str) -> Recognised | None:
    """As `identify`, or None. Raises nothing for a file of any content."""
    try:
        return identify(path)
    except DatasetError:
        return None


def load(
    name: str,
    path: Path | str,
    *,
    part: str | None = None,
    schema: Path | str | TableSpec | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> TrafficSet:
    """Rows of a data set.

    Args:
        name: one of `known()`.
        path: a file (also .gz, .zip or .parquet), the folder that holds the set's files, or the archive.
        part: which of the set's parts ("train", "test"); needed where they are the set's own split.
        schema: for `table`: the file that says what the columns are, or its content.
        limit: about how many rows of each of a public set's files are read, evenly spread over it.

    Raises:
        NotFoundError: no such loader. DatasetError, SchemaError: the file isn't what it should be.
        ConfigError: the schema file doesn't hold a schema.
    """
    loaders = known()
    if name not in loaders:
        raise NotFoundError(f"no data set '{printable(name, 60)}'", remedy=f"known: {', '.join(loaders)}")
    return loaders[name].load(Path(path), part=part, schema=schema, limit=limit, progress=progress)
