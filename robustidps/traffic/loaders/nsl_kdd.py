"""NSL-KDD by its official files: KDDTrain+, KDDTest+, KDDTest-21 and KDDTrain+_20Percent.

Columns, classes, labels and releases are in `configs/datasets/nsl_kdd.yaml`. The files have no header and carry
names that anyone may have changed, so a part is told by its number of rows, and the SHA-256 says whether it is the
published file byte for byte. `tool` is the original attack type, of which 17 occur in the test file alone. There are
no times, no hosts and no campaigns: the set can be split officially or not at all.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from robustidps.errors import DatasetError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import CONFIGS, load_yaml
from robustidps.traffic.loaders.base import Recognised, opened
from robustidps.traffic.loaders.card import Card
from robustidps.traffic.loaders.table import TableSpec, read_table
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["NslKdd"]

_ENDINGS = (".txt", ".txt.gz", ".csv", ".csv.gz")
_CEILING = 1024**3  # bytes; the largest official file has 19 MB
_FIELDS = 43


class Part(BaseModel):
    """One official file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    rows: int
    sha256: str = ""  # of the unpacked file; empty where it isn't known


class NslKddConfig(Card):
    """What `configs/datasets/nsl_kdd.yaml` holds."""

    parts: dict[str, Part]
    table: TableSpec


@cache
def _config() -> NslKddConfig:
    return load_yaml(CONFIGS / "datasets" / "nsl_kdd.yaml", NslKddConfig)


class NslKdd:
    """The loader; see the module's text."""

    name = "nsl_kdd"

    def recognise(self, path: Path) -> Recognised | None:
        files = self._files(path)
        if not files:
            return None
        parts: dict[str, Path] = {}
        notes: list[str] = []
        for file in files.values():
            try:
                part, note = self._part(file)
            except DatasetError:
                continue
            if part is not None:
                parts[part] = file
                notes += [note] if note else []
        return Recognised(self.name, "NSL-KDD", parts, tuple(notes)) if parts else None

    def describe(self) -> dict[str, Any]:
        config = _config()
        return {
            "name": self.name,
            **config.model_dump(include={"title", "source", "licence", "citation", "card"}),
            "classes": list(config.table.classes),
            "features": len(config.table.features),
            "parts": {name: part.model_dump() for name, part in config.parts.items()},
            "dropped_columns": dict(config.table.drop),
        }

    def load(
        self,
        path: Path,
        *,
        part: str | None = None,
        schema: Path | str | TableSpec | None = None,
        progress: Progress = silent,
    ) -> TrafficSet:
        """Rows of one official file; `path` is it or its folder.

        Raises:
            DatasetError: the part isn't there, the file fits no release, or a cell is wrong.
        """
        config = _config()
        if schema is not None:
            raise DatasetError("has a schema of its own", where=path, remedy="leave out the schema, or use `table`")
        if part is not None and part not in config.parts:
            raise DatasetError(
                f"has no part '{printable(part, 40)}'", where=self.name, remedy=f"parts: {', '.join(config.parts)}"
            )
        file = self._chosen(path, part)
        found, note = self._part(file)
        if found is None or (part is not None and found != part):
            known = ", ".join(f"{p.file} {p.rows}" for p in config.parts.values())
            problem = f"is {found}, not {part}" if found else f"fits no NSL-KDD file: {note}"
            raise DatasetError(
                problem,
                where=file,
                remedy=f"rows by file: {known}; a selection of rows loads as a table with the schema of {config.card}",
            )
        traffic = read_table(file, config.table, progress=progress)
        provenance = traffic.provenance | {
            "loader": self.name,
            "release": f"NSL-KDD {config.parts[found].file}",
            "part": found,
            "notes": [note] if note else [],
        }
        return replace(traffic, provenance=provenance)

    def _files(self, path: Path) -> dict[str, Path]:
        """Files that may be official ones, by part where the name tells, else by file name."""
        if path.is_file():
            return {path.name: path}
        if not path.is_dir():
            return {}
        names = {p.name.casefold(): p for p in sorted(path.iterdir()) if p.is_file()}
        found: dict[str, Path] = {}
        for part, official in _config().parts.items():
            for ending in _ENDINGS:
                if (file := names.get((official.file + ending).casefold())) is not None:
                    found.setdefault(part, file)
        return found

    def _chosen(self, path: Path, part: str | None) -> Path:
        if not path.exists():
            raise DatasetError("no such file or folder", where=path)
        if path.is_file():
            return path
        files = self._files(path)
        if not files:
            expected = ", ".join(p.file + ".txt[.gz]" for p in _config().parts.values())
            raise DatasetError("holds none of NSL-KDD's files", where=path, remedy=f"expected {expected}")
        if part is None:
            raise DatasetError("holds several parts", where=path, remedy=f"name one of {', '.join(files)}")
        if part not in files:
            raise DatasetError(
                f"has no {_config().parts[part].file}.txt", where=path, remedy=f"there are: {', '.join(files)}"
            )
        return files[part]

    def _part(self, file: Path) -> tuple[str | None, str]:
        """Which part a file is (None if none), and what is odd about it."""
        with opened(file, ceiling=_CEILING) as stream:
            first = stream.read(65_536).split(b"\n", 1)[0]
            fields = first.count(b",") + 1
            if fields != _FIELDS:
                return None, f"its first row has {fields} fields, expected {_FIELDS}"
            if first[:8].lower() == b"duration":
                return None, "it has a header, the official files have none"
            stream.drain()
            digest, rows = stream.hash.hexdigest(), stream.lines
        for name, part in _config().parts.items():
            if part.sha256 == digest:
                return name, ""
        for name, part in _config().parts.items():
            if part.rows == rows:
                return name, "" if not part.sha256 else f"{file.name}: the rows of {part.file}, other bytes"
        return None, f"it has {rows} rows"
