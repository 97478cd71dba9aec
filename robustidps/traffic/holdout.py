"""What is kept out of training by name: whole attack tools, whole benign services, whole days.

A `HoldOut` comes from a data set's configuration (`hold_out:`), from `robustidps train --hold-out tool=NAME`, or both
added. Every split of `robustidps.traffic.splits` takes one: the rows it names are in the test part and nowhere else,
whatever the split would have done with them, and so a model is asked about tools, services and days that it can't have
learnt. A name that the traffic doesn't have is an error: a spelling mistake would hold nothing out and look the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustidps.errors import ConfigError, DatasetError, printable
from robustidps.settings import config_error
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["HoldOut"]

_DAY_S = 86_400.0
_KINDS = {"tool": "tools", "service": "services", "day": "days"}
_LISTED = 60
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class HoldOut(BaseModel):
    """Names of what training must not see.

    tools: `TrafficSet.tool` of attack rows. services: the same of benign rows. days: UTC, midnight to midnight.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: tuple[_Name, ...] = Field(default=(), max_length=500, description="attack tools, as the traffic names them")
    services: tuple[_Name, ...] = Field(default=(), max_length=500, description="benign services, the same")
    days: tuple[date, ...] = Field(default=(), max_length=500, description="whole days (UTC), as 2026-01-31")

    @classmethod
    def parse(cls, words: Iterable[str]) -> HoldOut:
        """From words such as `tool=nmap_connect`, `service=voip`, `day=2026-01-17`.

        Raises:
            ConfigError: a word of another form, or a day that is none.
        """
        found: dict[str, list[str]] = {field: [] for field in _KINDS.values()}
        for word in words:
            kind, equals, name = str(word).partition("=")
            if kind not in _KINDS or not equals or not name:
                raise ConfigError(
                    f"{printable(word, 80)!r} is not of the form tool=NAME, service=NAME or day=YYYY-MM-DD",
                    where="--hold-out",
                )
            found[_KINDS[kind]].append(name)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise config_error(error, "--hold-out", cls) from None

    def __bool__(self) -> bool:
        return bool(self.tools or self.services or self.days)

    def __or__(self, other: HoldOut) -> HoldOut:
        """Both, each name once."""
        return HoldOut(
            **{k: tuple(dict.fromkeys((*getattr(self, k), *getattr(other, k)))) for k in ("tools", "services", "days")}
        )

    def words(self) -> list[str]:
        """What `parse` reads: tools, services, days, each by name and once."""
        return [
            f"{kind}={name}" for kind, field in _KINDS.items() for name in sorted(set(map(str, getattr(self, field))))
        ]

    def masks(self, traffic: TrafficSet) -> dict[str, npt.NDArray[np.bool_]]:
        """For each of `words()` the rows it names, bool [N]. Unlabelled rows belong to no tool and no service.

        Raises:
            DatasetError: the traffic has no such tool, service or day; the message lists those it has.
        """
        tool = traffic.tool.astype(str)
        found: dict[str, npt.NDArray[np.bool_]] = {}
        for kind, names, rows in (
            ("tool", self.tools, traffic.labels > 0),
            ("service", self.services, traffic.labels == 0),
        ):
            if names:
                _demand(kind, names, tool[rows], traffic)
            found |= {f"{kind}={name}": rows & (tool == name) for name in sorted(names)}
        if self.days:
            if not traffic.has_time:
                raise DatasetError("rows have no time, so no day can be held out", where=_name(traffic))
            day = np.floor(traffic.time / _DAY_S)
            number = {str(d): (d - date(1970, 1, 1)).days for d in sorted(self.days)}
            _demand("day", number, np.array([_iso(d) for d in np.unique(day)]), traffic)
            found |= {f"day={name}": day == n for name, n in number.items()}
        return found


def _demand(kind: str, names: Iterable[str], there: npt.NDArray[Any], traffic: TrafficSet) -> None:
    known = sorted(set(there.tolist()) - {""})
    unknown = [printable(name, 80) for name in names if name not in known]
    if unknown:
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        listed = ", ".join(printable(name, 80) for name in known[:_LISTED]) + more
        raise DatasetError(
            f"there is no {kind} {', '.join(unknown[:5])} to hold out",
            where=_name(traffic),
            remedy=f"known: {listed}" if known else f"its rows name no {kind}",
        )


def _iso(day: float) -> str:
    try:
        return datetime.fromtimestamp(day * _DAY_S, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # a capture may claim any year
        return ""


def _name(traffic: TrafficSet) -> str:
    return str(traffic.provenance.get("loader") or traffic.schema.name)
