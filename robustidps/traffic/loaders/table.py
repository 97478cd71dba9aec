"""Any CSV (also .gz or .zip) or Parquet file with a `TableSpec`, which says what its columns mean.

A spec is a YAML or JSON file; docs/data.md shows one line by line. Nothing is guessed and nothing passes in silence:
a column that is missing, renamed, doubled or not in the spec, an infinity, text where a number belongs, a number too
large for float32, a missing value that the feature refuses, a label that no class claims: each is one error that
names the file, the row (the first data row is 1) and the column. What a spec allows beyond that (rows without a finite
number, other spellings of names and labels) is counted. Read in blocks, so memory holds one block and the result.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import load_yaml
from robustidps.traffic.loaders.base import Recognised, opened
from robustidps.traffic.loaders.cells import Cells, arrow
from robustidps.traffic.loaders.spec import TableSpec, TimeColumn, columns_of
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

__all__ = ["Table", "TableSpec", "TimeColumn", "first_line", "is_parquet", "read_table"]

_BLOCK = 8 * 1024 * 1024


class Table:
    """The loader for everything that has no loader of its own."""

    name = "table"

    def identify(self, path: Path, *, progress: Progress = silent) -> Recognised | None:
        """Only traffic files of ours say by themselves what they are."""
        if path.suffix != ".parquet" or not path.is_file():
            return None
        _, pq = arrow()
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (OSError, ValueError):
            return None
        return Recognised("table", "traffic file", {"all": path}) if b"robustidps.schema" in metadata else None

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": "Any CSV or Parquet file with a schema file",
            "parts": {},
            "card": "docs/data.md",
        }

    def load(
        self,
        path: Path,
        *,
        part: str | None = None,
        schema: Path | str | TableSpec | None = None,
        limit: int | None = None,
        progress: Progress = silent,
    ) -> TrafficSet:
        if limit is not None:
            raise DatasetError("a table is read whole", where=path, remedy="leave out the limit")
        if part not in (None, "all"):
            raise DatasetError(f"a table has no part '{printable(part, 40)}'", where=path)
        if schema is None:
            if self.identify(path):
                return TrafficSet.read(path)
            raise DatasetError(
                "nothing says what its columns mean", where=path, remedy="name a schema file (docs/data.md shows one)"
            )
        spec = schema if isinstance(schema, TableSpec) else load_yaml(Path(schema), TableSpec)
        return read_table(path, spec, progress=progress)


def read_table(path: Path, spec: TableSpec, *, every: int = 1, progress: Progress = silent) -> TrafficSet:
    """All rows of one file under `spec`, or of each `every` rows the first.

    Raises:
        DatasetError: see the module's text. MissingExtraError: pyarrow isn't installed.
    """
    features: list[npt.NDArray[np.float32]] = []
    labels: list[npt.NDArray[np.int16]] = []
    times: list[npt.NDArray[np.float64]] = []
    texts: dict[str, list[npt.NDArray[Any]]] = {k: [] for k in ("source", "campaign", "tool") if getattr(spec, k)}
    others: dict[str, int] = {}
    facts: dict[str, Any] = {}
    refused = [i for i, f in enumerate(spec.features) if f.kind != "categorical" and f.missing == "refuse"]
    dropped: dict[str, dict[str, int]] = {}
    row, kept = 1, 0
    for block in _blocks(path, spec, progress, facts):
        n = block.num_rows
        x = np.empty((n, len(spec.features)), np.float32)
        for i, feature in enumerate(spec.features):
            cell = Cells(path, feature.name, row, block.column(feature.name), spec)
            if feature.kind == "categorical":
                x[:, i] = cell.codes(feature)
                unseen = int((x[:, i] == 0).sum())
                if unseen:
                    others[feature.name] = others.get(feature.name, 0) + unseen
            else:
                x[:, i] = cell.numbers(feature)
        y = np.full(n, UNLABELLED, np.int16)
        if spec.label:
            y = Cells(path, spec.label, row, block.column(spec.label), spec).labels()
        use = (np.arange(row - 1, row - 1 + n) % every) == 0
        if spec.unusable:
            use &= _usable(x, y, use, refused, spec, dropped)
        features.append(x[use])
        labels.append(y[use])
        if spec.time:
            times.append(Cells(path, spec.time.column, row, block.column(spec.time.column), spec).times(spec.time)[use])
        for name, parts in texts.items():
            column = getattr(spec, name)
            words = spec.words if name == "tool" and spec.loose and spec.tool == spec.label else None
            parts.append(Cells(path, column, row, block.column(column), spec).words(words)[use])
        row += n
        kept += int(use.sum())
    if row == 1:
        raise DatasetError("has no row", where=path)
    lost = sum(sum(counts.values()) for counts in dropped.values())
    if lost > spec.unusable * (kept + lost):
        raise DatasetError(
            f"{lost} of {kept + lost} rows are unusable ({100 * lost / (kept + lost):.1f} %, at most "
            f"{100 * spec.unusable:g} % is): {'; '.join(f'{k}: {sum(v.values())}' for k, v in dropped.items())}",
            where=path,
            remedy="fetch the file again from its source; this copy is damaged",
        )
    return TrafficSet.build(
        spec.traffic_schema,
        np.concatenate(features),
        np.concatenate(labels) if spec.label else None,
        time=np.concatenate(times) if times else None,
        provenance={
            "loader": "table",
            "file": path.name,
            "rows": row - 1,
            **facts,
            **({"every": every} if every > 1 else {}),
            **({"dropped_rows": dropped} if spec.unusable else {}),
            "values_outside_the_vocabulary": others,
        },
        **{name: np.concatenate(parts) for name, parts in texts.items()},
        **({} if "source" in texts else {"source": path.name}),
    )


def _usable(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int16],
    among: npt.NDArray[np.bool_],
    refused: list[int],
    spec: TableSpec,
    dropped: dict[str, dict[str, int]],
) -> npt.NDArray[np.bool_]:
    """Rows [N] with a finite number in all columns `refused`; the others are counted by column, then class."""
    fine = np.ones(len(x), bool)
    classes = (*spec.classes, "(unlabelled)")
    for i in refused:
        bad = ~np.isfinite(x[:, i]) & fine & among
        if bad.any():
            counts = dropped.setdefault(f"no finite number in '{spec.features[i].name}'", {})
            for label, n in zip(*np.unique(y[bad], return_counts=True), strict=True):
                counts[classes[label]] = counts.get(classes[label], 0) + int(n)
            fine &= ~bad
    return fine


def _blocks(path: Path, spec: TableSpec, progress: Progress, facts: dict[str, Any]) -> Iterator[Any]:
    """Record batches with the used columns, after the header was checked."""
    pa, pq = arrow()
    with opened(path, progress=progress) as stream:
        if is_parquet(path):
            try:
                file = pq.ParquetFile(path)
                names, index = _checked(path, file.schema_arrow.names, spec, facts)
                for batch in file.iter_batches(65_536):
                    yield pa.RecordBatch.from_arrays([batch.column(index[n]) for n in names], names)
                    progress("reading", batch.num_rows, None, unit="rows")
            except (pa.ArrowException, OSError) as error:
                raise DatasetError(f"not readable as Parquet: {printable(error)}", where=path) from None
            return
        import pyarrow.csv as csv

        first = first_line(path, spec)
        names, index = _checked(path, [c.strip() for c in first], spec, facts)
        positions = [f"c{i}" for i in range(len(first))]
        uneven: list[tuple[int, int]] = []

        def remember(row: Any) -> str:
            uneven.append((row.number - spec.header, row.actual_columns))
            return "error"

        try:
            reader = csv.open_csv(
                pa.PythonFile(stream, "r"),
                read_options=csv.ReadOptions(
                    column_names=positions,
                    skip_rows=0,
                    skip_rows_after_names=1 if spec.header else 0,
                    block_size=_BLOCK,
                    encoding="utf-8" if spec.encoding == "utf-8-sig" else spec.encoding,
                    use_threads=False,
                ),
                parse_options=csv.ParseOptions(
                    delimiter=spec.delimiter, newlines_in_values=True, invalid_row_handler=remember
                ),
                convert_options=csv.ConvertOptions(
                    column_types={p: pa.string() for p in positions},
                    include_columns=[positions[index[n]] for n in names],
                    strings_can_be_null=False,
                    null_values=[],
                ),
            )
            for batch in reader:
                yield batch.rename_columns(names)
        except pa.ArrowException as error:
            if uneven:
                row, fields = uneven[0]
                raise DatasetError(
                    f"row {row} has {fields} fields, expected {len(first)}", where=path, remedy="mend or remove it"
                ) from None
            raise DatasetError(f"not readable as CSV: {printable(error)}", where=path) from None
        except (UnicodeDecodeError, LookupError) as error:
            raise DatasetError(f"not {spec.encoding} text: {error}", where=path, remedy="set `encoding`") from None
        stream.drain()
        facts["sha256"] = stream.hash.hexdigest()


def first_line(path: Path, spec: TableSpec) -> list[str]:
    """Column names: of the header, or of the spec after counting the first row's fields."""
    import csv

    with opened(path) as stream:
        start = stream.read(1 << 20)
    try:
        text = start.removeprefix(b"\xef\xbb\xbf").decode(
            spec.encoding, "replace" if len(start) >= 1 << 20 else "strict"
        )
    except (UnicodeDecodeError, LookupError) as error:
        raise DatasetError(f"not {spec.encoding} text: {error}", where=path, remedy="set `encoding`") from None
    try:
        cells = next(csv.reader(text.lstrip("\ufeff").splitlines(keepends=True), delimiter=spec.delimiter, strict=True))
    except (StopIteration, csv.Error) as error:
        raise DatasetError(f"its first line is no CSV: {error}", where=path) from None
    if spec.header:
        return cells
    if len(cells) != len(spec.columns):
        raise DatasetError(f"its first row has {len(cells)} fields, expected {len(spec.columns)}", where=path)
    return list(spec.columns)


def _checked(path: Path, found: list[str], spec: TableSpec, facts: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    """The used columns and where each is.

    Raises:
        DatasetError: missing, renamed, doubled or unexpected columns.
    """
    columns = columns_of(found, spec)
    missing, extra = columns.missing, columns.extra
    if columns.doubled:
        raise DatasetError(
            f"column {_names(columns.doubled)} stands there twice", where=path, remedy="rename or remove one"
        )
    if missing:
        guesses = {m: difflib.get_close_matches(m, extra or found, 1, 0.75) for m in missing[:5]}
        hints = [f"is '{printable(g[0], 80)}' perhaps '{printable(m, 80)}'?" for m, g in guesses.items() if g]
        raise DatasetError(
            f"column {_names(missing)} is missing", where=path, remedy=" ".join(hints) or "see its schema file"
        )
    if extra and spec.extra == "refuse":
        raise DatasetError(
            f"column {_names(extra)} is not in the schema",
            where=path,
            remedy="name it under `drop` with the reason, or set `extra: ignore`",
        )
    unused = dict.fromkeys((printable(c, 80) for c in extra), "not in the schema")
    facts["dropped_columns"] = columns.dropped | unused
    return spec.used, columns.index


def _names(columns: list[str]) -> str:
    shown = ", ".join(f"'{printable(c, 80)}'" for c in columns[:5])
    return shown + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet; one in an archive is read as what it isn't, and refused as that."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False
