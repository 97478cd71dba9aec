"""Any CSV (also .gz) or Parquet file with a `TableSpec`, which says what its columns mean.

A spec is a YAML or JSON file; docs/data.md shows one line by line. Nothing is guessed and nothing passes in silence:
a column that is missing, renamed, doubled or not in the spec, an infinity, text where a number belongs, a number too
large for float32, a missing value that the feature refuses, a label that no class claims: each is one error that
names the file, the row (the first data row is 1) and the column. Read in blocks, so memory holds one block and the
result.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustidps.errors import DatasetError, MissingExtraError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import load_yaml
from robustidps.traffic.loaders.base import Recognised, opened
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

__all__ = ["Table", "TableSpec", "TimeColumn", "read_table"]

_BLOCK = 8 * 1024 * 1024
_LARGEST_NUMBER = float(np.finfo(np.float32).max)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeColumn(_Closed):
    """The column of a row's first packet. format: seconds or milliseconds since 1970 UTC, or ISO 8601 (UTC)."""

    column: str
    format: Literal["unix", "unix_ms", "iso"] = "unix"


class TableSpec(_Closed):
    """What a table's columns mean.

    header: whether the first line has the names; otherwise `columns` lists them in order.
    features: in the schema's order; each is found by its name.
    classes: the benign one first. labels: per class the words that stand for it (default: its own name); compared
        without regard to case. label: the column that has them; without it all rows are unlabelled.
    drop: columns that are there and not used, each with the reason. extra: what to do with any other column.
    missing: words that stand for a missing value.
    """

    name: str
    header: bool = True
    columns: tuple[str, ...] = ()
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    features: tuple[Feature, ...] = Field(min_length=1)
    classes: tuple[str, ...]
    label: str | None = None
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    time: TimeColumn | None = None
    source: str | None = None
    campaign: str | None = None
    tool: str | None = None
    drop: dict[str, str] = Field(default_factory=dict)
    extra: Literal["refuse", "ignore"] = "refuse"
    missing: tuple[str, ...] = ("", "nan", "NaN", "NA", "null")

    @model_validator(mode="after")
    def _fits(self) -> TableSpec:
        if self.header == bool(self.columns):
            raise ValueError("`columns` belongs to a table without a header, and such a table needs it")
        if unknown := set(self.labels) - set(self.classes):
            raise ValueError(f"labels are given for {sorted(unknown)}, which is no class")
        if self.columns and (lost := [c for c in self.used if c not in self.columns]):
            raise ValueError(f"{lost} is not among `columns`")
        words = [w.casefold() for name in self.classes for w in self.labels.get(name, (name,))]
        if len(set(words)) != len(words):
            raise ValueError("a label stands for two classes")
        _ = self.traffic_schema
        return self

    @cached_property
    def traffic_schema(self) -> TrafficSchema:
        return TrafficSchema(name=self.name, features=self.features, classes=self.classes)

    @cached_property
    def label_index(self) -> dict[str, int]:
        """Casefolded label to class index."""
        return {word.casefold(): i for i, name in enumerate(self.classes) for word in self.labels.get(name, (name,))}

    @property
    def used(self) -> list[str]:
        """The columns that are read, in order, each once."""
        others = (self.label, self.time.column if self.time else None, self.source, self.campaign, self.tool)
        return list(dict.fromkeys([*(f.name for f in self.features), *(c for c in others if c)]))


class Table:
    """The loader for everything that has no loader of its own."""

    name = "table"

    def recognise(self, path: Path) -> Recognised | None:
        """Only traffic files of ours say by themselves what they are."""
        if path.suffix != ".parquet" or not path.is_file():
            return None
        _, pq = _arrow()
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
        progress: Progress = silent,
    ) -> TrafficSet:
        if part not in (None, "all"):
            raise DatasetError(f"a table has no part '{printable(part, 40)}'", where=path)
        if schema is None:
            if self.recognise(path):
                return TrafficSet.read(path)
            raise DatasetError(
                "nothing says what its columns mean", where=path, remedy="name a schema file (docs/data.md shows one)"
            )
        spec = schema if isinstance(schema, TableSpec) else load_yaml(Path(schema), TableSpec)
        return read_table(path, spec, progress=progress)


def read_table(path: Path, spec: TableSpec, *, progress: Progress = silent) -> TrafficSet:
    """All rows of one file under `spec`.

    Raises:
        DatasetError: see the module's text. MissingExtraError: pyarrow isn't installed.
    """
    features: list[npt.NDArray[np.float32]] = []
    labels: list[npt.NDArray[np.int16]] = []
    times: list[npt.NDArray[np.float64]] = []
    texts: dict[str, list[npt.NDArray[Any]]] = {k: [] for k in ("source", "campaign", "tool") if getattr(spec, k)}
    others: dict[str, int] = {}
    facts: dict[str, Any] = {}
    row = 1
    for block in _blocks(path, spec, progress, facts):
        n = block.num_rows
        x = np.empty((n, len(spec.features)), np.float32)
        for i, feature in enumerate(spec.features):
            cell = _Cells(path, feature.name, row, block.column(feature.name), spec)
            if feature.kind == "categorical":
                x[:, i] = cell.codes(feature)
                unseen = int((x[:, i] == 0).sum())
                if unseen:
                    others[feature.name] = others.get(feature.name, 0) + unseen
            else:
                x[:, i] = cell.numbers(feature)
        features.append(x)
        if spec.label:
            labels.append(_Cells(path, spec.label, row, block.column(spec.label), spec).labels())
        if spec.time:
            times.append(_Cells(path, spec.time.column, row, block.column(spec.time.column), spec).times(spec.time))
        for name, parts in texts.items():
            column = getattr(spec, name)
            parts.append(np.asarray(_text(block.column(column)).to_pylist(), dtype=object))
        row += n
    if row == 1:
        raise DatasetError("has no row", where=path)
    unused = dict(spec.drop) | dict.fromkeys(facts.pop("extra_columns", []), "not in the schema")
    return TrafficSet.build(
        spec.traffic_schema,
        np.concatenate(features),
        np.concatenate(labels) if labels else None,
        time=np.concatenate(times) if times else None,
        provenance={
            "loader": "table",
            "file": path.name,
            "rows": row - 1,
            **facts,
            "dropped_columns": unused,
            "values_outside_the_vocabulary": others,
        },
        **{name: np.concatenate(parts) for name, parts in texts.items()},
        **({} if "source" in texts else {"source": path.name}),
    )


def _blocks(path: Path, spec: TableSpec, progress: Progress, facts: dict[str, Any]) -> Iterator[Any]:
    """Record batches with the used columns, after the header was checked."""
    pa, pq = _arrow()
    with opened(path, progress=progress) as stream:
        if _is_parquet(path):
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

        first = _first_line(path, spec)
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


def _first_line(path: Path, spec: TableSpec) -> list[str]:
    """Column names: of the header, or of the spec after counting the first row's fields."""
    import csv

    with opened(path) as stream:
        start = stream.read(1 << 20)
    try:
        text = start.decode(spec.encoding, "replace" if len(start) >= 1 << 20 else "strict")
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
    doubled = sorted({c for c in found if found.count(c) > 1})
    if doubled:
        raise DatasetError(f"column {_names(doubled)} stands there twice", where=path, remedy="rename or remove one")
    missing = [c for c in (*spec.used, *(d for d in spec.drop if not spec.header)) if c not in found]
    extra = [c for c in found if c not in spec.used and c not in spec.drop]
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
    facts["extra_columns"] = [printable(c, 80) for c in extra]
    return spec.used, {name: found.index(name) for name in spec.used}


class _Cells:
    """One column of one block, with what an error message needs."""

    def __init__(self, path: Path, column: str, row: int, cells: Any, spec: TableSpec) -> None:
        self.path, self.column, self.row, self.cells, self.spec = path, column, row, cells, spec

    def error(self, at: int, problem: str, remedy: str | None = None) -> DatasetError:
        where = f"{self.path}, row {self.row + at}, column '{printable(self.column, 80)}'"
        return DatasetError(problem, where=where, remedy=remedy)

    def numbers(self, feature: Feature | None = None) -> npt.NDArray[np.float64]:
        """float64 [n]; NaN where missing, if the feature allows it."""
        pa, _ = _arrow()
        import pyarrow.compute as pc

        cells = self.cells
        if pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
            cells = pc.utf8_trim_whitespace(cells)
            gone = pc.is_in(cells, value_set=pa.array(self.spec.missing, cells.type))
            cells = pc.if_else(gone, pa.scalar(None, cells.type), cells)
        try:
            numbers = cells.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            for at, text in enumerate(cells.to_pylist()):
                try:
                    float(text if text is not None else 0)
                except (ValueError, TypeError):
                    raise self.error(at, f"'{printable(text, 60)}' is not a number") from None
            numbers = pa.array([None if t is None else float(t) for t in cells.to_pylist()], pa.float64())
        values: npt.NDArray[np.float64] = np.array(pc.fill_null(numbers, float("nan")))
        bad = np.flatnonzero(np.abs(values) > _LARGEST_NUMBER)  # infinities too
        if len(bad):
            raise self.error(
                int(bad[0]), f"{values[bad[0]]} is not a finite number", "mend the file, or write such cells as empty"
            )
        if feature is None or feature.missing == "refuse":
            bad = np.flatnonzero(np.isnan(values))
            if len(bad):
                raise self.error(
                    int(bad[0]), "no value", "set the feature's `missing` to zero or median if that may happen"
                )
        return values

    def codes(self, feature: Feature) -> npt.NDArray[np.float32]:
        """float32 [n]: index into the vocabulary, 0 for any other word."""
        words = _text(self.cells).dictionary_encode()
        index = {word: i for i, word in enumerate(feature.vocabulary, start=1)}
        known = np.array([index.get(w, 0) for w in words.dictionary.to_pylist()], np.float32)
        return known[np.asarray(words.indices)] if len(known) else np.empty(0, np.float32)

    def labels(self) -> npt.NDArray[np.int16]:
        """int16 [n]; an empty cell is an unlabelled row."""
        words = _text(self.cells).dictionary_encode()
        index = self.spec.label_index | {"": UNLABELLED}
        codes = np.asarray(words.indices)
        known = np.empty(len(words.dictionary), np.int16)
        for i, word in enumerate(words.dictionary.to_pylist()):
            if word.casefold() not in index:
                near = difflib.get_close_matches(word.casefold(), list(self.spec.label_index), 1)
                raise self.error(
                    int(np.flatnonzero(codes == i)[0]),
                    f"'{printable(word, 60)}' is no known label",
                    f"perhaps '{near[0]}'?" if near else "add it to `labels` of the schema file",
                )
            known[i] = index[word.casefold()]
        return known[codes] if len(known) else np.empty(0, np.int16)

    def times(self, time: TimeColumn) -> npt.NDArray[np.float64]:
        """float64 [n], seconds since 1970 UTC."""
        pa, _ = _arrow()
        if pa.types.is_timestamp(self.cells.type):
            return np.asarray(self.cells.cast(pa.timestamp("us")).cast(pa.int64())) / 1e6
        if time.format != "iso":
            return self.numbers() / (1000.0 if time.format == "unix_ms" else 1.0)
        from datetime import UTC, datetime

        values = np.empty(len(self.cells))
        for at, text in enumerate(_text(self.cells).to_pylist()):
            try:
                moment = datetime.fromisoformat(text)
                values[at] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                raise self.error(at, f"'{printable(text, 60)}' is no ISO 8601 time") from None
        return values


def _text(cells: Any) -> Any:
    """Trimmed strings; a missing one is empty."""
    pa, _ = _arrow()
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    return pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), ""))


def _names(columns: list[str]) -> str:
    shown = ", ".join(f"'{printable(c, 80)}'" for c in columns[:5])
    return shown + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "traffic") from None
    return pa, pq
