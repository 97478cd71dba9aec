"""Which flows a window holds, and those flows a chunk at a time.

Traffic is a Parquet file as `robustidps ingest` writes it, a capture, or a folder of either. A window is the flows
whose first packet came after `since` and not after `until`; by default what is newer than the window before. Memory is
bounded by the chunk, whatever the window holds: files are read by row group, and row groups that their own
statistics put outside the window are not read at all.

A window is named by its end and its digest. The digest is over features and times, file by file and whatever the files'
names and order: the same flows are the same window, also when labels were added meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, MissingExtraError, SchemaError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import exists
from robustidps.traffic.capture import CAPTURE_SUFFIXES
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED

__all__ = ["CHUNK", "Chunk", "Digest", "Range", "Window", "collect", "incoming", "moment", "ranges", "span"]

CHUNK = 65_536
"""Rows that are looked at at once."""
MOST_AT_ONCE = 48


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a window.

    columns: float32 [F, n], raw features, a row of this array a feature. labels: int16 [n], `UNLABELLED` where unknown.
    time: float64 [n]. campaign: int64 [n], index into `names`, -1 where unknown. file: which of the window's files.
    """

    columns: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int16]
    time: npt.NDArray[np.float64]
    campaign: npt.NDArray[np.int64]
    file: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """float32 [n, F], as a bundle takes them."""
        return np.ascontiguousarray(self.columns.T)


@dataclass(frozen=True)
class Range:
    """From when (exclusive) to when (inclusive), seconds since 1970 UTC; None is open."""

    since: float | None = None
    until: float | None = None

    def holds(self, time: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        inside = np.ones(len(time), bool)
        if self.since is not None:
            inside &= time > self.since
        if self.until is not None:
            inside &= time <= self.until
        return inside

    def misses(self, first: float, last: float) -> bool:
        """Whether rows from `first` to `last` are all outside."""
        return (self.since is not None and last <= self.since) or (self.until is not None and first > self.until)

    @property
    def open(self) -> bool:
        return self.since is None and self.until is None


@dataclass(frozen=True)
class Window:
    """Flows of some files of one schema, within a range of time."""

    files: tuple[Path, ...]
    schema: TrafficSchema
    range: Range = field(default_factory=Range)
    names: list[str] = field(default_factory=list, compare=False)
    """Campaigns by index; grows while chunks are read."""

    def chunks(self, size: int = CHUNK) -> Iterator[Chunk]:
        """The window's rows in the files' order.

        Raises:
            DatasetError: a file is cut off or isn't ours, a label is of no class, only some rows have a time.
            SchemaError: a file is of another schema.
        """
        index: dict[str, int] = {}
        timed: bool | None = None
        for number, path in enumerate(self.files):
            for chunk in _read(path, self.schema, self.range, number, size, index):
                known = np.isfinite(chunk.time)
                some = bool(known.any())
                if timed is None:
                    timed = some
                if some != timed or (some and not known.all()):
                    raise DatasetError("some flows have a time and some have none", where=path)
                yield chunk
        self.names[:] = list(index)


class Digest:
    """SHA-256 (hex) over a window's features and times; labels and the names of files have no part in it."""

    def __init__(self, schema: TrafficSchema) -> None:
        self.schema = schema
        self.parts: dict[int, tuple[Any, Any]] = {}

    def add(self, chunk: Chunk, features: npt.NDArray[np.float32]) -> None:
        rows, times = self.parts.setdefault(chunk.file, (hashlib.sha256(), hashlib.sha256()))
        rows.update(features)
        times.update(np.ascontiguousarray(chunk.time))

    def hexdigest(self) -> str:
        whole = hashlib.sha256(self.schema.digest.encode())
        for part in sorted(rows.digest() + times.digest() for rows, times in self.parts.values()):
            whole.update(part)
        return whole.hexdigest()


def incoming(home: Path, model: str) -> Path | None:
    """Where a model's traffic comes in: incoming/MODEL in the home folder, else incoming; None where no file is."""
    for folder in (home / "incoming" / model, home / "incoming"):
        if folder.is_dir() and any(p.is_file() for p in folder.iterdir()):
            return folder
    return None


def collect(
    path: Path,
    *,
    folder: Path,
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> list[Path]:
    """The Parquet files of traffic at `path`, by name; captures are made into some first.

    Args:
        folder: where flows of captures are kept, named by the capture's content, so that each is extracted once.

    Raises:
        DatasetError: nothing is there. CaptureError: a capture is damaged.
    """
    if not exists(path):
        raise DatasetError("no such file or folder", where=path)
    found = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    captures = [p for p in found if p.suffix.lower() in CAPTURE_SUFFIXES]
    files = [p for p in found if p.suffix == ".parquet"]
    if not captures and not files:
        raise DatasetError(
            "holds neither a capture nor a Parquet file",
            where=path,
            remedy=f"put files ending in {', '.join(CAPTURE_SUFFIXES)} or .parquet there",
        )
    for done, capture in enumerate(captures):
        progress("extracting flows", done, len(captures), unit="captures")
        files.append(_extracted(capture, folder, truncated))
    return files


def _extracted(capture: Path, folder: Path, truncated: Literal["refuse", "use"]) -> Path:
    from robustidps.traffic.capture import ingest

    with capture.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = folder / f"captured-{digest[:32]}.parquet"
    if not target.is_file():
        ingest(capture, truncated=truncated).write(target)
    return target


def ranges(
    first: float | None,
    newest: float | None,
    *,
    before: float | None = None,
    since: float | None = None,
    until: float | None = None,
    length_s: float | None = None,
) -> list[Range]:
    """The windows that are to be looked at, earliest first.

    Args:
        first, newest: time of the earliest and of the latest flow there is; None where flows have no times.
        before: where the window before ended.
        since, until: the range that was asked for; `since` comes before `before`.
        length_s: cut what there is into windows this long; what fills none waits.

    Raises:
        DatasetError: a range was asked for and flows have no times; or it is empty.
    """
    if newest is None or first is None:
        if since is not None or until is not None or length_s is not None:
            raise DatasetError("flows have no time, so no range of it can be taken", remedy="leave the range out")
        return [Range()]
    begins = since if since is not None else before
    if until is not None and begins is not None and until <= begins:
        raise DatasetError(f"ends at {moment(until)}, before it begins at {moment(begins)}", where="the window")
    ends = newest if until is None else until
    if begins is not None and newest <= begins:
        return []
    if length_s is None:
        return [Range(begins, ends)]
    # A first window begins just before the first flow: `since` itself is outside a range.
    start = begins if begins is not None else float(np.nextafter(first, -np.inf))
    if first - start > length_s:  # hours without a flow are no windows
        start += length_s * ((first - start) // length_s)
    found: list[Range] = []
    while start + length_s <= ends and len(found) < MOST_AT_ONCE:
        found.append(Range(start, start + length_s))
        start += length_s
    return found


def span(window: Window) -> tuple[float | None, float | None]:
    """Time of the earliest and the latest flow within a window's range; (None, None) where there is none."""
    first, last = np.inf, -np.inf
    for path in window.files:
        with _opened(path, window.schema) as file:
            for group in _groups(file, window.range):
                time = _reading(path, lambda f=file, g=group: f.read_row_group(g, columns=["_time"]))
                seconds = _numbers(time.column("_time"), path)
                seconds = seconds[np.isfinite(seconds)]
                seconds = seconds[window.range.holds(seconds)]
                if len(seconds):
                    first, last = min(first, float(seconds.min())), max(last, float(seconds.max()))
    return (first, last) if first <= last else (None, None)


def moment(seconds: float) -> str:
    """`2026-01-05T10:00:00+00:00`, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _opened(path: Path, schema: TrafficSchema) -> Any:
    """A `ParquetFile` of this schema. Raises DatasetError, SchemaError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "traffic") from None
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise DatasetError("no such file", where=path) from None
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"not readable as Parquet: {printable(error)}", where=path, remedy="make it anew") from None
    try:
        described = (file.schema_arrow.metadata or {}).get(b"robustidps.schema")
        if described is None:
            raise DatasetError(
                "is Parquet, but holds no traffic schema", where=path, remedy="write it with robustidps ingest"
            )
        try:
            found = TrafficSchema.model_validate_json(described)
        except ValueError:
            raise DatasetError("its traffic schema is damaged", where=path, remedy="make it anew") from None
        if found.digest != schema.digest:
            raise SchemaError(
                f"is traffic of schema {found.name}, the model's is {schema.name}",
                where=path,
                remedy="keep traffic of another schema in a folder of its own",
            )
        missing = {*schema.feature_names, "_time", "_label"} - set(file.schema_arrow.names)
        if missing:
            raise DatasetError(f"its columns don't fit its schema: no {printable(sorted(missing)[0], 80)}", where=path)
    except BaseException:
        file.close()
        raise
    return file


def _groups(file: Any, wanted: Range) -> list[int]:
    """Row groups that may hold rows of the range, by their own statistics."""
    names = [file.metadata.schema.column(i).name for i in range(file.metadata.num_columns)]
    column = names.index("_time")
    kept = []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max and wanted.misses(statistics.min, statistics.max):
            continue
        kept.append(group)
    return kept


def _read(
    path: Path, schema: TrafficSchema, wanted: Range, number: int, size: int, index: dict[str, int]
) -> Iterator[Chunk]:
    with _opened(path, schema) as file:
        groups = _groups(file, wanted)
        if not groups:
            return
        columns = [*schema.feature_names, "_label", "_time"]
        if "_campaign" in file.schema_arrow.names:
            columns.append("_campaign")
        batches = file.iter_batches(batch_size=size, row_groups=groups, columns=columns)
        classes = {name: i for i, name in enumerate(schema.classes)} | {"": UNLABELLED}
        while True:
            batch = _reading(path, lambda: next(batches, None))
            if batch is None:
                return
            time = _numbers(batch.column("_time"), path)
            inside = wanted.holds(time) if not wanted.open else np.ones(len(time), bool)
            if not inside.any():
                continue
            whole = bool(inside.all())
            values = np.empty((schema.input_dim, int(inside.sum())), np.float32)
            for i, name in enumerate(schema.feature_names):
                column = _numbers(batch.column(name), path)
                values[i] = column if whole else column[inside]
            yield Chunk(
                values,
                _labels(batch.column("_label"), classes, path)[inside],
                time[inside],
                _campaigns(batch, index)[inside],
                number,
            )


def _reading(path: Path, read: Any) -> Any:
    import pyarrow as pa

    try:
        return read()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"not readable as Parquet: {printable(error)}", where=path, remedy="make it anew") from None


def _numbers(column: Any, path: Path) -> npt.NDArray[Any]:
    found = column.to_numpy(zero_copy_only=False)
    if found.dtype.kind not in "fiu":
        raise DatasetError("a column that should hold numbers holds something else", where=path, remedy="make it anew")
    return np.asarray(found)


def _coded(column: Any) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """The different words of a column, and for each row which it has; -1 for none."""
    import pyarrow as pa

    coded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    return coded.dictionary.to_pylist(), np.asarray(
        coded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64
    )


def _labels(column: Any, classes: dict[str, int], path: Path) -> npt.NDArray[np.int16]:
    words, codes = _coded(column)
    for used in np.unique(codes):
        if used >= 0 and words[used] not in classes and words[used] is not None:
            raise DatasetError(
                f"a flow is labelled {printable(repr(words[used]), 80)}, which is none of the model's classes",
                where=path,
                remedy="leave the label empty, or call it by a class of the schema",
            )
    table = np.array([classes.get(w or "", UNLABELLED) for w in words] + [UNLABELLED], np.int16)
    return table[codes]


def _campaigns(batch: Any, index: dict[str, int]) -> npt.NDArray[np.int64]:
    if "_campaign" not in batch.schema.names:
        return np.full(batch.num_rows, -1, np.int64)
    words, codes = _coded(batch.column("_campaign"))
    table = np.array([index.setdefault(str(w), len(index)) if w else -1 for w in words] + [-1], np.int64)
    return table[codes]
