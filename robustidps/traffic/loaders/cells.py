"""One column of one block of a table, turned into numbers, codes, labels or times; a fault names row and column."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, MissingExtraError, printable
from robustidps.traffic.loaders.spec import TableSpec, TimeColumn
from robustidps.traffic.schema import Feature
from robustidps.traffic.trafficset import UNLABELLED

__all__ = ["Cells", "arrow"]

_LARGEST_NUMBER = float(np.finfo(np.float32).max)


class Cells:
    """One column of one block, with what an error message needs."""

    def __init__(self, path: Path, column: str, row: int, cells: Any, spec: TableSpec) -> None:
        self.path, self.column, self.row, self.cells, self.spec = path, column, row, cells, spec

    def error(self, at: int, problem: str, remedy: str | None = None) -> DatasetError:
        where = f"{self.path}, row {self.row + at}, column '{printable(self.column, 80)}'"
        return DatasetError(problem, where=where, remedy=remedy)

    def numbers(self, feature: Feature | None = None) -> npt.NDArray[np.float64]:
        """float64 [n]; NaN where missing, if the feature allows it."""
        pa, _ = arrow()
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
        if feature is not None and feature.kind == "count" and self.spec.fractions:
            bad = np.flatnonzero(np.isfinite(values) & (values != np.floor(values)))
            if len(bad):
                raise self.error(int(bad[0]), f"{values[bad[0]]:g} is no count: {self.spec.fractions}")
        bad = np.flatnonzero(np.abs(values) > _LARGEST_NUMBER)  # infinities too
        if len(bad) and feature is not None and self.spec.unusable:
            values[bad] = np.nan  # the row is left out and counted
        elif len(bad):
            raise self.error(
                int(bad[0]), f"{values[bad[0]]} is not a finite number", "mend the file, or write such cells as empty"
            )
        if feature is None or (feature.missing == "refuse" and not self.spec.unusable):
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
            if self.spec.key(word) not in index:
                near = difflib.get_close_matches(self.spec.key(word), list(self.spec.label_index), 1)
                raise self.error(
                    int(np.flatnonzero(codes == i)[0]),
                    f"'{printable(word, 60)}' is no known label",
                    f"perhaps '{near[0]}'?" if near else "add it to `labels` of the schema file",
                )
            known[i] = index[self.spec.key(word)]
        return known[codes] if len(known) else np.empty(0, np.int16)

    def times(self, time: TimeColumn) -> npt.NDArray[np.float64]:
        """float64 [n], seconds since 1970 UTC."""
        pa, _ = arrow()
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

    def words(self, spelling: dict[str, str] | None = None) -> npt.NDArray[Any]:
        """Trimmed strings [N], one object per distinct word; as `spelling` has them by their key, if given."""
        coded = _text(self.cells).dictionary_encode()
        found = coded.dictionary.to_pylist()
        if spelling is not None:
            found = [spelling.get(self.spec.key(word), word) for word in found]
        return np.array([*found, ""], dtype=object)[np.asarray(coded.indices)]


def _text(cells: Any) -> Any:
    """Trimmed strings; a missing one is empty."""
    pa, _ = arrow()
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    return pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), ""))


def arrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises MissingExtraError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "traffic") from None
    return pa, pq
