"""`ModelMetadata`: what a model version says about itself, in `metadata.json` of its bundle.

The first twelve fields keep the names and order of the published guide. `checksum` is the bundle's digest and is
filled in when the bundle is written; everything here except it is covered by that digest.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import semver
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustidps.errors import BundleError, NameInvalidError, printable
from robustidps.settings import check_name

__all__ = ["ModelMetadata", "TrainingFacts", "check_version", "next_version", "version_key"]

MAX_SPLIT = 400
"""Characters of the split's report that a bundle keeps."""
MAX_TOOLS = 500
"""Attack tools, and benign services, that a bundle names; a data set with more of them names none."""


def check_version(text: str) -> str:
    """`text` if it is a semantic version (semver.org 2.0.0) without build metadata, at most 64 characters.

    Raises:
        NameInvalidError: otherwise.
    """
    if isinstance(text, str) and len(text) <= 64 and "+" not in text and semver.Version.is_valid(text):
        return text
    raise NameInvalidError(
        f"{printable(repr(text), 80)} is not a semantic version", remedy="use MAJOR.MINOR.PATCH, for example 1.4.0"
    )


def version_key(text: str) -> semver.Version:
    """A key that sorts versions as semver.org says: 1.9.0 < 1.10.0-rc.1 < 1.10.0. Raises NameInvalidError."""
    return semver.Version.parse(check_version(text))


def next_version(existing: list[str], *, breaking: bool = False) -> str:
    """The number after the highest of `existing`: next minor, or next major on an incompatible change; 1.0.0 first."""
    if not existing:
        return "1.0.0"
    newest = max(version_key(v) for v in existing).finalize_version()
    return str(newest.bump_major() if breaking else newest.bump_minor())


class TrainingFacts(BaseModel):
    """Where a version's knowledge comes from.

    time_from, time_to: seconds since 1970 UTC of the first and last flow used for training or validation; None where
        the data set has no time.
    tools: attack tools among the training rows, sorted; empty where the data set names none.
    services: the same of benign services.
    held_out: what was kept out of training on purpose, as `tool=NAME`, `service=NAME`, `day=YYYY-MM-DD`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(max_length=200)
    data_digest: str = Field(max_length=64, description="TrafficSet.digest of the training rows")
    rows: int = Field(ge=0)
    time_from: float | None = None
    time_to: float | None = None
    split: str = Field(default="", max_length=MAX_SPLIT)
    seed: int = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    tools: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=MAX_TOOLS)
    services: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=MAX_TOOLS)
    held_out: list[Annotated[str, Field(max_length=220)]] = Field(default_factory=list, max_length=3 * MAX_TOOLS)


class ModelMetadata(BaseModel):
    """What a version is."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(description="registered model, e.g. neural_ode-nsl_kdd")
    version: str
    model_type: str = Field(max_length=64)
    framework: str = Field(max_length=64)
    input_dim: int = Field(ge=1, le=10_000)
    output_dim: int = Field(ge=2, le=1_000)
    performance_metrics: dict[str, float] = Field(default_factory=dict)
    requirements: list[str] = Field(default_factory=list, max_length=200)
    checksum: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="the bundle's digest; filled in by us")
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    author: str = Field(default="unknown", max_length=200)
    description: str = Field(default="", max_length=4000)

    format_version: Literal[1] = 1
    family: str = Field(default="", max_length=64)
    schema_digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    training: TrainingFacts | None = None
    temperature: float = Field(default=1.0, gt=0, description="what logits are divided by before softmax")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="per attack class: probability from which a flow raises an alert"
    )
    alert_budget: float | None = Field(
        default=None, description="false alerts per benign flow the thresholds were fitted to"
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return _as_value_error(check_name, value)

    @field_validator("version")
    @classmethod
    def _version(cls, value: str) -> str:
        return _as_value_error(check_version, value)

    @field_validator("created_at")
    @classmethod
    def _aware(cls, value: datetime) -> datetime:
        return value.astimezone(UTC)

    @model_validator(mode="after")
    def _figures_are_finite(self) -> ModelMetadata:
        for key, value in self.performance_metrics.items():
            if not -1e300 < value < 1e300:
                raise ValueError(f"performance metric {key!r} is not a finite number")
        for key, value in self.thresholds.items():
            if not 0 <= value <= 1.000001:
                raise ValueError(f"threshold of {key!r} is not a probability")
        return self

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, two blanks of indent, a newline at the end."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: object = "metadata.json") -> ModelMetadata:
        """Raises BundleError when it isn't metadata."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(k) for k in first["loc"])
            raise BundleError(f"'{printable(key)}': {first['msg']}", where=where) from None


def _as_value_error(check: Any, value: str) -> str:
    try:
        return str(check(value))
    except NameInvalidError as error:
        raise ValueError(error.problem) from None
