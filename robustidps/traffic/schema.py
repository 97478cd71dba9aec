"""What a model's input and output mean: an ordered list of features and one of classes, named by a digest.

A `TrafficSchema` travels with every traffic set and every bundle. Two parties agree about what column 17 is exactly
when their digests are equal; `compatible_with` says whether a model of one schema can take the place of another's.
The default schema, `flow64`, is in `robustidps.traffic.flow64`; those of public sets in `configs/datasets/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Feature", "TrafficSchema"]


class Feature(BaseModel):
    """One column.

    kind: `continuous` (a measure), `count` (a non-negative whole number), `flag` (0 or 1), `ratio` (0 to 1),
        `categorical` (a float32 index into `vocabulary`; 0 stands for "other", so the first word has index 1).
    transform: what the schema's preprocessing does before it standardises: `log` is the signed sign(x)*ln(1+|x|),
        for heavy tails; `onehot` is for categorical ones and gives len(vocabulary) + 1 columns.
    missing: what stands in for a NaN: `zero`, the training `median`, or `refuse`, which makes it an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80, pattern=r"^[\w .:/+()-]+$")
    unit: str = Field(default="1", max_length=20)
    kind: Literal["continuous", "count", "flag", "ratio", "categorical"] = "continuous"
    transform: Literal["identity", "log", "onehot"] = "identity"
    missing: Literal["zero", "median", "refuse"] = "refuse"
    vocabulary: tuple[str, ...] = ()
    description: str = Field(default="", max_length=300)

    @model_validator(mode="after")
    def _categories(self) -> Feature:
        if (self.kind == "categorical") != bool(self.vocabulary):
            raise ValueError("a categorical feature has a vocabulary, and no other has one")
        if (self.kind == "categorical") != (self.transform == "onehot"):
            raise ValueError("a categorical feature has the transform 'onehot', and no other has it")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("a word stands twice in the vocabulary")
        return self

    @property
    def width(self) -> int:
        """Columns this feature has after preprocessing."""
        return len(self.vocabulary) + 1 if self.kind == "categorical" else 1


class TrafficSchema(BaseModel):
    """Ordered features and ordered classes, the benign class first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    features: tuple[Feature, ...] = Field(min_length=1, max_length=10_000)
    classes: tuple[str, ...] = Field(min_length=2, max_length=1_000)

    @field_validator("classes")
    @classmethod
    def _classes_are_plain(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not name or len(name) > 80 or not all(c.isalnum() or c in " _-./" for c in name):
                raise ValueError(f"class name {name!r}: use letters, digits, blanks and _-./")
        if len(set(value)) != len(value):
            raise ValueError("a class stands twice")
        return value

    @model_validator(mode="after")
    def _names_differ(self) -> TrafficSchema:
        names = [f.name for f in self.features]
        if len(set(names)) != len(names):
            raise ValueError("a feature stands twice")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of features and classes; the schema's name is no part of it."""
        content = self.model_dump(mode="json", exclude={"name": True, "features": {"__all__": {"description"}}})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> TrafficSchema:
        """As pydantic's, without the digest that may be cached here: it isn't the copy's."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    @property
    def benign(self) -> str:
        return self.classes[0]

    @property
    def input_dim(self) -> int:
        """F: columns of a raw feature matrix."""
        return len(self.features)

    @property
    def output_dim(self) -> int:
        """C: number of classes."""
        return len(self.classes)

    @property
    def standardised_dim(self) -> int:
        """D: columns after preprocessing (one-hot widens); what a family's network sees."""
        return sum(f.width for f in self.features)

    @property
    def feature_names(self) -> list[str]:
        return [f.name for f in self.features]

    def compatible_with(self, other: TrafficSchema, *, allow_more_classes: bool = False) -> list[str]:
        """Why a model of this schema can't take the place of one of `other`; an empty list when it can.

        Args:
            allow_more_classes: accept classes added at the end.
        """
        reasons = []
        if self.features != other.features and [f.model_dump(exclude={"description"}) for f in self.features] != [
            f.model_dump(exclude={"description"}) for f in other.features
        ]:
            mine, theirs = set(self.feature_names), set(other.feature_names)
            if mine != theirs:
                reasons.append(f"features differ: {len(mine - theirs)} new, {len(theirs - mine)} gone")
            elif self.feature_names != other.feature_names:
                reasons.append("features are in another order")
            else:
                reasons.append("a feature changed its unit, kind, vocabulary, transform or rule for missing values")
        same = self.classes == other.classes
        grown = allow_more_classes and self.classes[: len(other.classes)] == other.classes
        if not (same or grown):
            if set(self.classes) == set(other.classes):
                reasons.append("classes are in another order")
            else:
                reasons.append(f"classes differ: {sorted(set(self.classes) ^ set(other.classes))[:5]}")
        return reasons
