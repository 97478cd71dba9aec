"""Features that data sets of different makers share, so that a model of one can be asked about another.

Each set has a `Mapping` in `configs/common/`: which of its columns is the duration, the packets and bytes each way and
so on, in which unit, and what its makers count as a byte. From these come the same NetFlow-style features for all sets;
two are compared on those that both have, under two classes, Benign and Attack:

    common = Common.between(flow64, nsl_kdd)      # the features both have, and the coarser clock of the two
    common.project(traffic)                       # a TrafficSet of either under `common.schema`

What differs between makers is evened out as far as it can be, always towards the poorer set:

- **Bytes and sizes are payload.** Where a set counts IP packets, the headers' usual length (20 bytes for IPv4, 40 for
  ICMPv6's IPv6; 20 for TCP, 8 for UDP, none for the rest) is taken off for every packet, and 14 more for Ethernet where
  it counts frames. It is an estimate: TCP options (12 bytes with time stamps) and IPv6 stay in it, below 0 it is 0.
- **Durations** are rounded down to the coarser of the two clocks, and rates divide by at least one tick of it.
- **Protocols** are TCP, UDP, ICMP and any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from robustidps.errors import SchemaError
from robustidps.settings import config_file, known_configs, load_yaml
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

__all__ = ["CLASSES", "FEATURES", "LEAST", "Common", "Mapping", "mapping_of"]

CLASSES = ("Benign", "Attack")
LEAST = 4
"""Features that two sets must share before they are compared."""

QUANTITIES = (
    "protocol", "duration", "packets_up", "packets_down", "bytes_up", "bytes_down",
    "size_min", "size_mean", "size_std", "size_max", "gap_mean",
)  # fmt: skip
"""What a mapping may name a column for. Up is from the side that began. size: of a packet. gap: between packets."""

_MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 0.001}
_PROTOCOLS = ("tcp", "udp", "icmp")
_NUMBERS = {6: 1, 17: 2, 1: 3, 58: 3}
_WORDS = {"tcp": 1, "udp": 2, "icmp": 3, "icmpv6": 3, "ipv6-icmp": 3}
_HEADERS = np.array([20.0, 40.0, 28.0, 20.0])  # other, TCP, UDP, ICMP; over IPv4
_ICMPV6_HEADERS, _ETHERNET = 40.0, 14.0
_LARGEST = float(np.finfo(np.float32).max)

Array = npt.NDArray[np.float64]
Columns = dict[str, Array]


class Mapping(BaseModel):
    """`configs/common/NAME.yaml`: how one data set's columns become common features.

    It belongs to every schema that has all the columns it names (letters and digits count, case and blanks don't).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    rows: Literal["flow", "window"] = Field(description="what a row is: a flow, or a window of packets of any flows")
    sizes: Literal["payload", "ip", "frame"] = Field(description="what bytes and sizes count")
    time: Literal["s", "ms", "us"] = Field(description="unit of duration and gaps")
    resolution_ms: float = Field(gt=0, le=60_000, description="step of the set's clock")
    columns: dict[str, str] = Field(min_length=1, description="quantity: column")
    notes: tuple[str, ...] = ()

    @field_validator("columns")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := [name for name in value if name not in QUANTITIES]:
            raise ValueError(f"no quantity {', '.join(unknown)}; known: {', '.join(QUANTITIES)}")
        return value

    @model_validator(mode="after")
    def _convertible(self) -> Mapping:
        if self.sizes != "payload" and "protocol" not in self.columns:
            raise ValueError("without a protocol the headers' length isn't known, so sizes must be payload")
        for way in ("up", "down"):
            if self.sizes != "payload" and f"bytes_{way}" in self.columns and f"packets_{way}" not in self.columns:
                raise ValueError(f"bytes_{way} with headers in them need packets_{way}")
        return self

    def positions(self, schema: TrafficSchema) -> dict[str, int] | None:
        """Quantity to column number, or None where `schema` lacks a column."""
        there = {_plain(name): i for i, name in enumerate(schema.feature_names)}
        found = {quantity: there.get(_plain(column)) for quantity, column in self.columns.items()}
        return None if None in found.values() else {q: i for q, i in found.items() if i is not None}


def mapping_of(schema: TrafficSchema) -> Mapping:
    """The mapping that fits a schema; of several, the one that uses most columns.

    Raises:
        SchemaError: none fits. ConfigError: a mapping's file is broken.
    """
    known = [load_yaml(config_file("common", name), Mapping) for name in known_configs("common")]
    fitting = [mapping for mapping in known if mapping.positions(schema) is not None]
    if not fitting:
        raise SchemaError(
            "has no mapping to common features",
            where=schema.name,
            remedy="write one in HOME/configs/common (docs/evaluation.md); known: " + ", ".join(m.title for m in known),
        )
    return max(fitting, key=lambda mapping: len(mapping.columns))


# --- The features

Formula = Callable[[Columns], Array]
_PACKETS, _BYTES = ("packets_up", "packets_down"), ("bytes_up", "bytes_down")


@dataclass(frozen=True)
class _Common:
    """A common feature: what it can be worked out from (any one of `needs`), and how."""

    feature: Feature
    needs: tuple[tuple[str, ...], ...]
    formula: Formula


def _log(name: str, unit: str, needs: tuple[str, ...] | None = None, formula: Formula | None = None) -> _Common:
    """A measure with a heavy tail; without a formula it is the quantity of that name."""
    feature = Feature(name=name, unit=unit, transform="log", missing="median")
    return _Common(feature, (needs or (name,),), formula or (lambda q: q[name]))


def _total(q: Columns, names: tuple[str, ...]) -> Array:
    return np.sum([q[name] for name in names], axis=0)


def _over(one: Array, other: Array) -> Array:
    """A quotient, 0 where its divisor is."""
    return np.divide(one, other, out=np.zeros_like(other), where=other != 0)


def _per_second(names: tuple[str, ...]) -> Formula:
    return lambda q: 1000.0 * _total(q, names) / np.maximum(q["duration"], q["tick"])


def _mean_size(way: str) -> Formula:
    return lambda q: _over(q[f"bytes_{way}"], q[f"packets_{way}"])


def _down_share(what: str, names: tuple[str, ...]) -> _Common:
    feature = Feature(name=f"down_{what}_share", kind="ratio", missing="median")
    return _Common(feature, (names,), lambda q: _over(q[names[1]], _total(q, names)))


def _size_mean(q: Columns) -> Array:
    return q["size_mean"] if "size_mean" in q else _over(_total(q, _BYTES), _total(q, _PACKETS))


_CATALOGUE = (
    _Common(
        Feature(name="protocol", kind="categorical", transform="onehot", vocabulary=_PROTOCOLS),
        (("protocol",),),
        lambda q: q["protocol"],
    ),
    _log("duration", "ms"),
    _log("packets_up", "packets"),
    _log("packets_down", "packets"),
    _log("bytes_up", "B"),
    _log("bytes_down", "B"),
    _log("packets", "packets", _PACKETS, lambda q: _total(q, _PACKETS)),
    _log("bytes", "B", _BYTES, lambda q: _total(q, _BYTES)),
    _log("packets_per_second", "1/s", (*_PACKETS, "duration"), _per_second(_PACKETS)),
    _log("bytes_per_second", "B/s", (*_BYTES, "duration"), _per_second(_BYTES)),
    _log("size_mean_up", "B", ("bytes_up", "packets_up"), _mean_size("up")),
    _log("size_mean_down", "B", ("bytes_down", "packets_down"), _mean_size("down")),
    _down_share("packet", _PACKETS),
    _down_share("byte", _BYTES),
    _Common(_log("size_mean", "B").feature, (("size_mean",), (*_BYTES, *_PACKETS)), _size_mean),
    _log("size_min", "B"),
    _log("size_std", "B"),
    _log("size_max", "B"),
    _log("gap_mean", "ms"),
)
FEATURES = tuple(entry.feature.name for entry in _CATALOGUE)
"""Their names, in order. A rate divides by at least one tick of the clock; a quotient whose divisor is 0 is 0."""


def _available(mapping: Mapping) -> list[str]:
    there = set(mapping.columns)
    return [e.feature.name for e in _CATALOGUE if any(there.issuperset(way) for way in e.needs)]


@dataclass(frozen=True)
class Common:
    """What some data sets have in common. names: of `FEATURES`, in their order. resolution_ms: the coarsest clock."""

    names: tuple[str, ...]
    resolution_ms: float

    @classmethod
    def between(cls, *schemas: TrafficSchema) -> Common:
        """Raises SchemaError: a schema without a mapping, or fewer than `LEAST` features that all have."""
        mappings = [mapping_of(schema) for schema in schemas]
        names = tuple(name for name in FEATURES if all(name in _available(m) for m in mappings))
        if len(names) < LEAST:
            raise SchemaError(
                f"share {len(names)} common features ({', '.join(names) or 'none'}), fewer than {LEAST}",
                where=" and ".join(dict.fromkeys(m.title for m in mappings)),
                remedy="compare sets whose rows are alike: a window of packets has no bytes each way"
                if len({m.rows for m in mappings}) > 1
                else None,
            )
        return cls(names, max(m.resolution_ms for m in mappings))

    @property
    def schema(self) -> TrafficSchema:
        features = tuple(e.feature for e in _CATALOGUE if e.feature.name in self.names)
        return TrafficSchema(name="common", features=features, classes=CLASSES)

    def project(self, traffic: TrafficSet) -> TrafficSet:
        """The rows of `traffic` under `schema`, in their order, with what is known about them; NaN where unknown.

        Raises:
            SchemaError: no mapping fits the traffic, or it lacks one of the features.
        """
        mapping = mapping_of(traffic.schema)
        if missing := [name for name in self.names if name not in _available(mapping)]:
            raise SchemaError(f"has no {', '.join(missing)}", where=mapping.title)
        columns = _quantities(traffic, mapping, self.resolution_ms)
        chosen = [entry for entry in _CATALOGUE if entry.feature.name in self.names]
        values = [np.minimum(entry.formula(columns), _LARGEST) for entry in chosen]
        labels = np.where(traffic.labels == UNLABELLED, UNLABELLED, np.minimum(traffic.labels, 1)).astype(np.int16)
        return replace(
            traffic,
            schema=self.schema,
            features=np.column_stack(values).astype(np.float32),
            labels=labels,
            provenance={**traffic.provenance, "common": {"of": traffic.schema.name, "mapping": mapping.title}},
        )


def _quantities(traffic: TrafficSet, mapping: Mapping, resolution_ms: float) -> Columns:
    """What the mapping names, in ms and bytes of payload, [N] each; and `tick`, the shortest duration told apart."""
    positions = mapping.positions(traffic.schema) or {}
    raw = {quantity: traffic.features[:, i].astype(np.float64) for quantity, i in positions.items()}
    out: Columns = {"tick": np.full(len(traffic), max(resolution_ms, 1.0))}
    headers = np.zeros(len(traffic))
    if "protocol" in raw:
        feature = traffic.schema.features[positions["protocol"]]
        out["protocol"], headers = _protocols(raw.pop("protocol"), feature)
    per_packet = {"payload": 0.0 * headers, "ip": headers, "frame": headers + _ETHERNET}[mapping.sizes]
    for quantity, column in raw.items():
        value = np.where(np.isfinite(column), np.maximum(column, 0.0), np.nan)  # some makers write -1 or infinity
        if quantity in ("duration", "gap_mean"):
            value = value * _MILLISECONDS[mapping.time]
        if quantity == "duration":  # a millionth of a tick's slack: 3 * 0.001 must not fall below 3 ticks
            value = np.floor(value / resolution_ms + 1e-6) * resolution_ms
        elif quantity in _BYTES:
            packets = raw.get(quantity.replace("bytes", "packets"), np.zeros(len(traffic)))
            value = np.maximum(value - per_packet * packets, 0.0)
        elif quantity in ("size_min", "size_mean", "size_max"):
            value = np.maximum(value - per_packet, 0.0)
        out[quantity] = value
    return out


def _protocols(column: Array, feature: Feature) -> tuple[Array, Array]:
    """Index into the common vocabulary, and the usual bytes of headers from IP up to the payload; [N] each."""
    if feature.vocabulary:
        words = ("", *(word.casefold() for word in feature.vocabulary))
        table: dict[Any, int] = {i: _WORDS.get(word, 0) for i, word in enumerate(words)}
        six = [i for i, word in enumerate(words) if word in ("icmpv6", "ipv6-icmp")]
    else:
        table, six = dict(_NUMBERS), [58]
    index = np.zeros(len(column), np.int64)
    for value, code in table.items():
        index[column == value] = code
    return index.astype(np.float64), np.where(np.isin(column, six), _ICMPV6_HEADERS, _HEADERS[index])


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
