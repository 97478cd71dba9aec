"""From raw features to what a network sees, by the rules that each feature's schema entry names.

The same few array operations run here in NumPy, when a model is trained, and inside every bundle's ONNX graph, when it
is served: `robustidps.bundle.graph` emits them from the public arrays below. So that both agree to the last float32
digit also where a column hardly varies, everything between the two casts is float64. For a raw row x (float32 [F]):

    x = where(isnan(x), fill, x)                                  float32; a NaN under `refuse` is an error here,
                                                                  and the service checks for it before the graph
    v = float64(x[numeric])                                       [K]
    v = where(log, sign(v) * ln(1 + |v|), v)
    v = float32(clip((v - mean) * gain, -CLIP, CLIP))             gain = 1 / standard deviation, 0 for a constant column
    for each categorical column, in order, with V words:          [V + 1]
        known = float32(x[column] == (1, 2, .., V))
        onehot = (1 - sum(known), *known)                         an index that is no word's means "other"
    z = concat(v, onehot, onehot, ..)                             float32 [D], D = schema.standardised_dim

For a model that takes raw features (`raw()`), z is x with its missing values filled in, and D = F.

Mean, gain and the medians come from training rows alone. A column that was constant in training says nothing, and its
gain of 0 keeps a later value of it from pushing an untrained weight about. Clipping bounds what one absurd value does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import DatasetError, SchemaError
from robustidps.traffic.schema import TrafficSchema

__all__ = ["CLIP", "Preprocessing"]

CLIP = 10.0
"""Standard deviations beyond which a value counts as this far out."""

_CONSTANT = 1e-7  # a spread below this share of the column's magnitude is float32 rounding, not information
_CHUNK = 65_536  # rows at a time, so that the float64 copies stay small

Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Fitted preprocessing for one schema; plain arrays, all in the order of the schema's features.

    names: the F feature names, for messages.
    fill: float32 [F], what stands in for a NaN (zero, the training median, or the commonest category).
    refuse: bool [F], where a NaN is an error instead.
    numeric: int64 [K], the raw columns that aren't categorical.
    log: bool [K], which of them take the signed logarithm.
    mean, gain: float64 [K], of the values after the logarithm; gain 0 marks a column that was constant.
    categorical: int64 [M], the raw columns that are one-hot encoded.
    words: int64 [M], the number V of words in each one's vocabulary (V + 1 output columns).
    fills_only: nothing is done but to fill in missing values; D is F.
    """

    names: tuple[str, ...]
    fill: Floats32
    refuse: npt.NDArray[np.bool_]
    numeric: npt.NDArray[np.int64]
    log: npt.NDArray[np.bool_]
    mean: Floats64
    gain: Floats64
    categorical: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    clip: float = CLIP
    fills_only: bool = False

    @property
    def input_dim(self) -> int:
        """F."""
        return len(self.names)

    @property
    def output_dim(self) -> int:
        """D."""
        if self.fills_only:
            return self.input_dim
        return len(self.numeric) + int((self.words + 1).sum())

    @classmethod
    def fit(cls, schema: TrafficSchema, x: npt.ArrayLike) -> Preprocessing:
        """Learns medians, means and spreads from training rows.

        Args:
            x: raw float32 [N, F], NaN where missing.

        Raises:
            DatasetError: there is no row.
            SchemaError: a wrong width, an infinity, or a NaN where the schema refuses one; names feature and row.
        """
        raw = np.ascontiguousarray(x, dtype=np.float32)
        names = tuple(schema.feature_names)
        refuse = np.array([f.missing == "refuse" for f in schema.features])
        _check(raw, names, refuse)
        if not len(raw):
            raise DatasetError("preprocessing can't be fitted to no rows", where=schema.name)
        fill = np.zeros(len(names), np.float32)
        for i, feature in enumerate(schema.features):
            if feature.missing == "median":
                fill[i] = _typical(raw[:, i], categorical=feature.kind == "categorical")
        numeric = np.array([i for i, f in enumerate(schema.features) if f.kind != "categorical"], np.int64)
        categorical = np.array([i for i, f in enumerate(schema.features) if f.kind == "categorical"], np.int64)
        log = np.array([schema.features[i].transform == "log" for i in numeric], bool)
        mean, gain = np.zeros(len(numeric)), np.zeros(len(numeric))
        for k, i in enumerate(numeric):  # a column at a time: a float64 copy of everything could be large
            column = np.where(np.isnan(raw[:, i]), fill[i], raw[:, i]).astype(np.float64)
            if log[k]:
                column = _signed_log(column)
            mean[k], spread = column.mean(), column.std()
            gain[k] = 1 / spread if spread > _CONSTANT * max(1.0, float(np.abs(column).max())) else 0.0
        words = np.array([len(schema.features[i].vocabulary) for i in categorical], np.int64)
        return cls(names, fill, refuse, numeric, log, mean, gain, categorical, words)

    def raw(self) -> Preprocessing:
        """The same rules for missing values, for a model that does everything else itself."""
        return replace(self, fills_only=True)

    def transform(self, x: npt.ArrayLike) -> Floats32:
        """Raw float32 [N, F] to standardised float32 [N, D].

        Raises:
            SchemaError: a wrong width, an infinity, or a NaN where the schema refuses one; names feature and row.
        """
        raw = np.ascontiguousarray(x, dtype=np.float32)
        _check(raw, self.names, self.refuse)
        out = np.empty((len(raw), self.output_dim), np.float32)
        for start in range(0, len(raw), _CHUNK):
            self._transform(raw[start : start + _CHUNK], out[start : start + _CHUNK])
        return out

    def _transform(self, raw: Floats32, out: Floats32) -> None:
        raw = np.where(np.isnan(raw), self.fill, raw)
        if self.fills_only:
            out[:] = raw
            return
        values = raw[:, self.numeric].astype(np.float64)
        values[:, self.log] = _signed_log(values[:, self.log])
        k = len(self.numeric)
        out[:, :k] = np.clip((values - self.mean) * self.gain, -self.clip, self.clip)
        for column, words in zip(self.categorical, self.words, strict=True):
            known = raw[:, column, None] == np.arange(1, words + 1, dtype=np.float32)
            out[:, k] = ~known.any(axis=1)
            out[:, k + 1 : k + 1 + words] = known
            k += words + 1

    def column_names(self) -> list[str]:
        """The D names of what `transform` gives: `duration`, .., `protocol=0` (other), `protocol=1`, .."""
        if self.fills_only:
            return list(self.names)
        names = [self.names[i] for i in self.numeric]
        for column, words in zip(self.categorical, self.words, strict=True):
            names += [f"{self.names[column]}={k}" for k in range(words + 1)]
        return names

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for JSON; floats survive it exactly."""
        return {
            "names": list(self.names),
            "clip": self.clip,
            "fills_only": self.fills_only,
            **{key: getattr(self, key).tolist() for key in _ARRAYS},
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Preprocessing:
        """What `to_dict` gave, again.

        Raises:
            SchemaError: a key is missing or the lengths don't fit each other.
        """
        try:
            arrays = {key: np.asarray(content[key], dtype=dtype) for key, dtype in _ARRAYS.items()}
            made = cls(
                names=tuple(content["names"]),
                clip=float(content["clip"]),
                fills_only=bool(content.get("fills_only")),
                **arrays,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"is not a fitted preprocessing: {error!r}") from None
        f, k, m = len(made.names), len(made.numeric), len(made.categorical)
        lengths = {"fill": f, "refuse": f, "log": k, "mean": k, "gain": k, "words": m}
        if k + m != f or any(getattr(made, key).shape != (n,) for key, n in lengths.items()):
            raise SchemaError("is not a fitted preprocessing: lengths don't fit each other")
        return made


_ARRAYS: dict[str, Any] = {
    "fill": np.float32,
    "refuse": bool,
    "numeric": np.int64,
    "log": bool,
    "mean": np.float64,
    "gain": np.float64,
    "categorical": np.int64,
    "words": np.int64,
}


def _signed_log(values: Floats64) -> Floats64:
    """sign(v) * ln(1 + |v|), spelled as the ONNX graph spells it."""
    return np.sign(values) * np.log(1.0 + np.abs(values))


def _typical(column: Floats32, *, categorical: bool) -> float:
    present = column[~np.isnan(column)]
    if not len(present):
        return 0.0
    if categorical:
        values, counts = np.unique(present, return_counts=True)
        return float(values[counts.argmax()])
    return float(np.median(present))


def _check(raw: Floats32, names: tuple[str, ...], refuse: npt.NDArray[np.bool_]) -> None:
    if raw.ndim != 2 or raw.shape[1] != len(names):
        raise SchemaError(f"features have shape {raw.shape}, expected (N, {len(names)})")
    if np.isfinite(raw).all():
        return
    if np.isinf(raw).any():
        row, column = np.argwhere(np.isinf(raw))[0]
        raise SchemaError(
            f"holds an infinity (row {row}, counted from 0)",
            where=names[column],
            remedy="a loader maps it to a missing value or drops the row; do the same",
        )
    missing = np.isnan(raw) & refuse
    if missing.any():
        row, column = np.argwhere(missing)[0]
        raise SchemaError(
            f"is missing in {int(missing.any(axis=1).sum())} rows (first: row {row}, counted from 0), "
            "and its rule for missing values is 'refuse'",
            where=names[column],
            remedy="drop those rows, or give the feature the rule 'zero' or 'median' and train anew",
        )
