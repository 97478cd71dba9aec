"""Types of flow parameters that show as choices in Prefect's form, filled in when the form is made.

A choice is a help, not a check: what a flow is given is judged by the library, with its own message. Prefect's server
takes no other family or rule set than the form lists, so a plugin that is allowed later, or a rule set of your own that
comes later, shows after the next `robustidps up` or `robustidps deploy`. A data set may always be a file of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from robustidps.families import discover
from robustidps.settings import known_configs

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler

__all__ = ["DatasetName", "FamilyName", "RuleSetName"]


@dataclass(frozen=True)
class Choices:
    """Changes a parameter's JSON schema to what `schema` gives."""

    schema: Callable[[], dict[str, Any]]

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.schema()


def _families() -> dict[str, Any]:
    """Families by entry point, ours and allowed plugins', also those whose framework only a worker has."""
    return {"type": "string", "enum": sorted(name for name, info in discover().items() if info.family is not None)}


def _datasets() -> dict[str, Any]:
    return {
        "anyOf": [
            {"title": "known here", "type": "string", "enum": known_configs("training")},
            {"title": "a file of yours", "type": "string"},
        ]
    }


def _rule_sets() -> dict[str, Any]:
    return {"type": "string", "enum": known_configs("promotion")}


FamilyName = Annotated[str, Choices(_families)]
DatasetName = Annotated[str, Choices(_datasets)]
RuleSetName = Annotated[str, Choices(_rule_sets)]
