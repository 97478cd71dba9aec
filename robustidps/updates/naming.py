"""What targets of the remote registry are called, and the summary that rides with each bundle. Pure.

A version has two targets, `FAMILY/NAME/VERSION/bundle.tar` and `FAMILY/NAME/VERSION/metadata.json`. Each family is a
delegated role of its own, named for it, that may sign `FAMILY/*/*/*` and nothing else. A path is taken apart here
before any part of it is used as a file name or compared as a version, and what isn't exactly of this form is refused.

The summary is the bundle target's `custom` field, so that asking for updates downloads no model and nothing per
version. It is what the publisher says, and is shown; it is never believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustidps.errors import NameInvalidError, UpdateError, printable
from robustidps.registry.metadata import ModelMetadata, check_version
from robustidps.settings import check_name

__all__ = [
    "BUNDLE",
    "METADATA",
    "OTHER",
    "SUMMARY_BYTES",
    "Summary",
    "Target",
    "family_of",
    "parse_target",
    "role_paths",
    "stated",
    "summary_of",
    "target",
]

BUNDLE, METADATA = "bundle.tar", "metadata.json"
SUMMARY_BYTES = 400
"""The most that a summary takes as compact JSON."""
OTHER = "other"
"""The role of bundles that name no family."""
TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
_STATED = {
    "accuracy": ("accuracy", "val_accuracy"),
    "macro_f1": ("macro_f1", "f1_score", "val_macro_f1"),
    "false_positive_rate": ("false_positive_rate", "val_fpr"),
}
"""Figures of a summary, and what bundles call them: of held-out rows if the publisher says so, else of validation."""


@dataclass(frozen=True)
class Target:
    """One target, taken apart. file: `bundle.tar` or `metadata.json`."""

    family: str
    name: str
    version: str
    file: str

    @property
    def path(self) -> str:
        return f"{self.family}/{self.name}/{self.version}/{self.file}"


def target(family: str, name: str, version: str, file: str = BUNDLE) -> Target:
    """The target of a version.

    Raises:
        NameInvalidError: a part that isn't a name or a version, or a family called like one of TUF's own roles.
    """
    check_name(family, "family")
    if family in TOP_ROLES:
        raise NameInvalidError(f"{family!r} is a role of TUF's own", remedy="call the family something else")
    if file not in (BUNDLE, METADATA):
        raise NameInvalidError(f"{printable(file, 60)!r} is no file of a version")
    return Target(family, check_name(name), check_version(version), file)


def parse_target(path: str) -> Target:
    """Takes a target's path apart.

    Raises:
        UpdateError: it isn't `FAMILY/NAME/VERSION/FILE`, each part as `target` demands.
    """
    parts = str(path).split("/")
    try:
        if len(parts) != 4:
            raise NameInvalidError("has not four parts")
        return target(*parts)
    except NameInvalidError as error:
        raise UpdateError(f"isn't the name of a version's file: {error}", where=printable(path, 120)) from None


def role_paths(family: str) -> list[str]:
    """The path patterns that a family's role may sign."""
    return [f"{target(family, 'x', '1.0.0').family}/*/*/*"]


def family_of(metadata: ModelMetadata) -> str:
    """The role that a bundle belongs to: its family, or `other` where it names none."""
    return metadata.family or OTHER


class Summary(BaseModel):
    """What a publisher says about a version in `custom`. metrics: shares; created_at: seconds since 1970, UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="the bundle's digest")
    schema_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    metrics: dict[Annotated[str, Field(max_length=32)], Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]] = (
        Field(default_factory=dict, max_length=4)
    )
    created_at: int = Field(ge=0)

    def as_custom(self) -> dict[str, Any]:
        """For the target's `custom`: shares are text there, since TUF's canonical JSON knows no fractions.

        Raises:
            UpdateError: it is larger than `SUMMARY_BYTES`.
        """
        content = self.model_dump() | {"metrics": {name: f"{share:g}" for name, share in self.metrics.items()}}
        _check_size(content)
        return content

    @classmethod
    def read(cls, custom: object, where: object) -> Summary:
        """The summary in a target's `custom`. Raises UpdateError: none, too large, or with figures that aren't."""
        _check_size(custom, where)
        try:
            return cls.model_validate(custom)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise UpdateError(f"its summary is malformed: {printable(what)}", where=where) from None


def stated(performance_metrics: Mapping[str, float]) -> dict[str, float]:
    """The figures of a summary, of those that a bundle's metadata has; shares alone."""
    found = {}
    for name, called in _STATED.items():
        value = next((performance_metrics[key] for key in called if key in performance_metrics), None)
        if value is not None and 0 <= value <= 1:
            found[name] = float(value)
    return found


def summary_of(metadata: ModelMetadata) -> Summary:
    """The summary of a finished bundle, from its metadata."""
    return Summary(
        digest=metadata.checksum,
        schema_digest=metadata.schema_digest,
        metrics={name: round(value, 4) for name, value in stated(metadata.performance_metrics).items()},
        created_at=max(0, int(metadata.created_at.timestamp())),
    )


def _check_size(content: object, where: object = "summary") -> None:
    try:
        size = len(json.dumps(content, separators=(",", ":"), sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        raise UpdateError("its summary isn't JSON", where=where) from None
    if size > SUMMARY_BYTES:
        raise UpdateError(f"its summary takes {size} bytes, more than {SUMMARY_BYTES}", where=where)
