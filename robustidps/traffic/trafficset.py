"""A `TrafficSet`: rows of features with what is known about where each came from.

Every loader, the simulator and the capture reader give one of these, and everything downstream takes one. Arrays are
NumPy, one entry a row, so that the library needs no data frame; `frame()` gives a pandas one where it is wanted.
On disk it is a Parquet file whose metadata holds the schema, so a file says by itself what it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, MissingExtraError, SchemaError, printable
from robustidps.settings import part_of, writable
from robustidps.traffic.schema import TrafficSchema

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNLABELLED", "TrafficSet"]

UNLABELLED = -1
"""The label of a row whose class isn't known."""

_COLUMNS = ("_label", "_time", "_source", "_campaign", "_tool")


@dataclass(frozen=True, eq=False)
class TrafficSet:
    """N rows of traffic under one schema.

    features: float32 [N, F], raw units, NaN where missing (each feature's rule says what follows).
    labels: int16 [N], index into `schema.classes`, or `UNLABELLED`.
    time: float64 [N], seconds since 1970 UTC of a flow's first packet; NaN where the data set has none.
    source: str [N], the capture, file or sensor a row came from.
    campaign: str [N], what rows are not independent within: one attack run, or one benign service on one day;
        empty where unknown. Intervals are bootstrapped over campaigns and splits never cut one.
    tool: str [N], the variant behind the row (an attack tool, a benign application, NSL-KDD's attack type).
    provenance: how the set came about: loader, release, dropped rows with reasons, simulator version and settings.
    """

    schema: TrafficSchema
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int16]
    time: npt.NDArray[np.float64]
    source: npt.NDArray[Any]
    campaign: npt.NDArray[Any]
    tool: npt.NDArray[Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, f = len(self.labels), self.schema.input_dim
        if self.features.shape != (n, f):
            raise SchemaError(f"features have shape {self.features.shape}, expected ({n}, {f})", where=self.schema.name)
        for name in ("time", "source", "campaign", "tool"):
            if len(getattr(self, name)) != n:
                raise SchemaError(f"{name} has {len(getattr(self, name))} rows, features have {n}")
        if n and (self.labels.min() < UNLABELLED or self.labels.max() >= self.schema.output_dim):
            raise SchemaError("a label is outside the schema's classes", where=self.schema.name)

    @classmethod
    def build(
        cls,
        schema: TrafficSchema,
        features: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        *,
        time: npt.ArrayLike | None = None,
        source: npt.ArrayLike | str = "",
        campaign: npt.ArrayLike | str = "",
        tool: npt.ArrayLike | str = "",
        provenance: dict[str, Any] | None = None,
    ) -> TrafficSet:
        """A set from whatever array-likes are at hand; single strings are spread over all rows."""
        x = np.ascontiguousarray(features, dtype=np.float32).reshape(-1, schema.input_dim)
        n = len(x)

        def text(value: npt.ArrayLike | str) -> npt.NDArray[Any]:
            return np.full(n, value, dtype=object) if isinstance(value, str) else np.asarray(value, dtype=object)

        return cls(
            schema=schema,
            features=x,
            labels=np.full(n, UNLABELLED, np.int16) if labels is None else np.asarray(labels, dtype=np.int16),
            time=np.full(n, np.nan) if time is None else np.asarray(time, dtype=np.float64),
            source=text(source),
            campaign=text(campaign),
            tool=text(tool),
            provenance=provenance or {},
        )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: npt.NDArray[Any] | slice) -> TrafficSet:
        """The rows that a boolean mask, index array or slice names, in that order."""
        return replace(
            self,
            **{k: getattr(self, k)[rows] for k in ("features", "labels", "time", "source", "campaign", "tool")},
        )

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        return self.labels != UNLABELLED

    @property
    def has_time(self) -> bool:
        return bool(len(self)) and bool(np.isfinite(self.time).all())

    def class_counts(self) -> dict[str, int]:
        """Rows per class, in the schema's order."""
        counts = np.bincount(self.labels[self.labelled], minlength=self.schema.output_dim)
        return dict(zip(self.schema.classes, counts.tolist(), strict=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over schema, features, labels and times: the same rows in the same order give the same."""
        h = hashlib.sha256(self.schema.digest.encode())
        for array in (self.features, self.labels, self.time):
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()

    def frame(self) -> pd.DataFrame:
        """A pandas frame: a column a feature, then `_label` (class name), `_time`, `_source`, `_campaign`, `_tool`."""
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError("pandas", "traffic") from None
        frame = pd.DataFrame(self.features, columns=self.schema.feature_names)
        names = np.array([*self.schema.classes, ""], dtype=object)
        values = (names[self.labels], self.time, self.source, self.campaign, self.tool)
        return frame.assign(**dict(zip(_COLUMNS, values, strict=True)))

    def write(self, path: Path) -> Path:
        """Writes Parquet (zstd) next to its final name and moves it there, so that a reader never sees half a file.

        Raises:
            StorageError: full disk, read-only folder.
        """
        pa, pq = _arrow()
        import json

        columns: dict[str, Any] = {n: self.features[:, i] for i, n in enumerate(self.schema.feature_names)}
        names = np.array([*self.schema.classes, ""], dtype=object)
        columns["_label"] = pa.array(names[self.labels], pa.string()).dictionary_encode()
        columns["_time"] = self.time
        for name in ("source", "campaign", "tool"):
            columns[f"_{name}"] = pa.array([str(v) for v in getattr(self, name)], pa.string()).dictionary_encode()
        table = pa.table(columns).replace_schema_metadata(
            {
                "robustidps.schema": self.schema.model_dump_json(),
                "robustidps.provenance": json.dumps(self.provenance, default=str),
            }
        )
        part = part_of(path)
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                pq.write_table(table, part, compression="zstd", write_page_checksum=True)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path

    @classmethod
    def read(cls, path: Path) -> TrafficSet:
        """Reads what `write` wrote.

        Raises:
            DatasetError: not there, cut off, or a Parquet file that isn't one of ours.
        """
        import json

        pa, pq = _arrow()
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise DatasetError("no such file", where=path) from None
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"not readable as Parquet: {error}", where=path, remedy="make it anew") from None
        meta = table.schema.metadata or {}
        if b"robustidps.schema" not in meta:
            raise DatasetError(
                "is Parquet, but holds no traffic schema", where=path, remedy="name one with --schema FILE"
            )
        try:
            schema = TrafficSchema.model_validate_json(meta[b"robustidps.schema"])
            provenance = json.loads(meta.get(b"robustidps.provenance", b"{}"))
            index = {name: i for i, name in enumerate(schema.classes)} | {"": UNLABELLED}
            features = np.empty((table.num_rows, schema.input_dim), np.float32)
            for i, name in enumerate(schema.feature_names):
                features[:, i] = table.column(name).to_numpy()
            labels = _codes(table.column("_label").combine_chunks(), index)
            return cls.build(
                schema,
                features,
                labels,
                time=table.column("_time").to_numpy(),
                **{
                    n: np.asarray(table.column(f"_{n}").to_pylist(), dtype=object)
                    for n in ("source", "campaign", "tool")
                },
                provenance=provenance,
            )
        except (LookupError, TypeError, AttributeError, ValueError, SchemaError, pa.ArrowException) as error:
            raise DatasetError(f"its columns don't fit its schema: {printable(error)}", where=path) from None

    @classmethod
    def concat(cls, parts: Sequence[TrafficSet] | Iterable[TrafficSet]) -> TrafficSet:
        """Rows of several sets of one schema, in order.

        Raises:
            SchemaError: schemas differ, or there is no part.
        """
        parts = list(parts)
        if not parts:
            raise SchemaError("nothing to join")
        if len({p.schema.digest for p in parts}) > 1:
            raise SchemaError("sets of different schemas can't be joined", remedy="load each under the same schema")
        arrays = {
            k: np.concatenate([getattr(p, k) for p in parts])
            for k in ("features", "labels", "time", "source", "campaign", "tool")
        }
        return cls(schema=parts[0].schema, **arrays, provenance={"parts": [p.provenance for p in parts]})


def _codes(column: Any, index: dict[str, int]) -> npt.NDArray[np.int16]:
    words = np.array([index[w] for w in column.dictionary.to_pylist()], dtype=np.int16)
    return words[column.indices.to_numpy()] if len(words) else np.empty(0, np.int16)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "traffic") from None
    return pa, pq
