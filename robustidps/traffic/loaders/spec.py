"""What the columns of a table mean: `TableSpec`, written in a schema file of yours or in configs/datasets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED

__all__ = ["Columns", "TableSpec", "TimeColumn", "columns_of"]


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
    no_label: words in the label column that leave a row unlabelled.
    drop: columns that are there and not used, each with the reason. extra: what to do with any other column.
    repeated: columns that stand there twice; the second one is called NAME.1, as pandas does.
    missing: words that stand for a missing value.
    loose: compare names of columns and labels by their letters and digits (ASCII) alone, without regard to case: files
        that went through many hands differ in dashes, blanks, encoding. `tool` then has the words of `labels`.
    unusable: share of rows (0 to 1) that may lack a finite number where the feature refuses that: they are left out
        and counted; where there are more, the file is refused. At 0 the first such cell is an error.
    fractions: what it means when a feature of kind `count` isn't whole: why such a file is refused. Empty: it isn't.
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
    no_label: tuple[str, ...] = ()
    time: TimeColumn | None = None
    source: str | None = None
    campaign: str | None = None
    tool: str | None = None
    drop: dict[str, str] = Field(default_factory=dict)
    extra: Literal["refuse", "ignore"] = "refuse"
    repeated: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "nan", "NaN", "NA", "null")
    loose: bool = False
    unusable: float = Field(default=0, ge=0, lt=1)
    fractions: str = ""

    @model_validator(mode="after")
    def _fits(self) -> TableSpec:
        if self.header == bool(self.columns):
            raise ValueError("`columns` belongs to a table without a header, and such a table needs it")
        if unknown := set(self.labels) - set(self.classes):
            raise ValueError(f"labels are given for {sorted(unknown)}, which is no class")
        if self.columns and (lost := [c for c in self.used if c not in self.columns]):
            raise ValueError(f"{lost} is not among `columns`")
        words = [self.key(w) for name in self.classes for w in self.labels.get(name, (name,))]
        words += [self.key(w) for w in self.no_label]
        if len(set(words)) != len(words):
            raise ValueError("a label stands for two classes")
        columns = [*self.used, *self.drop]
        if self.loose and len({self.key(c) for c in columns}) != len(columns):
            raise ValueError("two columns differ in more than letters and digits alone: `loose` can't tell them apart")
        _ = self.traffic_schema
        return self

    @cached_property
    def traffic_schema(self) -> TrafficSchema:
        return TrafficSchema(name=self.name, features=self.features, classes=self.classes)

    @cached_property
    def label_index(self) -> dict[str, int]:
        """Label (its `key`) to class index."""
        index = {self.key(word): i for i, name in enumerate(self.classes) for word in self.labels.get(name, (name,))}
        return index | dict.fromkeys(map(self.key, self.no_label), UNLABELLED)

    @cached_property
    def words(self) -> dict[str, str]:
        """Label (its `key`) to its spelling in the spec."""
        given = (*(w for name in self.classes for w in self.labels.get(name, (name,))), *self.no_label)
        return {self.key(word): word for word in given}

    def key(self, word: str) -> str:
        """What of a label is compared; of a column too, if `loose`."""
        word = word.casefold()
        return re.sub(r"[^a-z0-9]+", " ", word).strip() if self.loose else word

    @property
    def used(self) -> list[str]:
        """The columns that are read, in order, each once."""
        others = (self.label, self.time.column if self.time else None, self.source, self.campaign, self.tool)
        return list(dict.fromkeys([*(f.name for f in self.features), *(c for c in others if c)]))


@dataclass(frozen=True)
class Columns:
    """How the columns of a file fit a spec: where each used one is, which are dropped, and what doesn't fit."""

    index: dict[str, int]
    dropped: dict[str, str]
    missing: list[str]
    extra: list[str]
    doubled: list[str]

    @property
    def fit(self) -> bool:
        return not (self.missing or self.extra or self.doubled)


def columns_of(found: list[str], spec: TableSpec) -> Columns:
    """Compares the column names of a file, in order, with those of a spec."""
    key = spec.key if spec.loose else str
    named, seen = [], set[str]()
    for column in found:
        again = next((r for r in spec.repeated if key(r) == key(column)), None)
        named.append(key(f"{column}.1" if again is not None and key(column) in seen else column))
        seen.add(key(column))
    where = {name: i for i, name in reversed(list(enumerate(named)))}
    needed = [*spec.used, *(d for d in spec.drop if not spec.header)]
    known = {key(c) for c in (*spec.used, *spec.drop)}
    return Columns(
        index={c: where[key(c)] for c in spec.used if key(c) in where},
        dropped={c: reason for c, reason in spec.drop.items() if key(c) in where},
        missing=[c for c in needed if key(c) not in where],
        extra=[c for c, name in zip(found, named, strict=True) if name not in known],
        doubled=sorted({c for c, name in zip(found, named, strict=True) if named.count(name) > 1}),
    )
