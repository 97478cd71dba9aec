"""Cells of a label file: addresses, ports, protocols and times. Each reader raises ValueError with what is wrong."""

from __future__ import annotations

import ipaddress
import re
import socket
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from robustidps.errors import ConfigError, printable
from robustidps.traffic.labels import ANY

__all__ = ["Clock", "address", "port", "protocol", "seconds", "time_zone"]

PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
    "icmp6": 58, "ipv6-icmp": 58, "ospf": 89, "sctp": 132,
}  # fmt: skip
"""IANA's numbers of the names that label files use; any other protocol by its number."""

_WILDCARDS = frozenset(("*", "any"))
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_UNITS = ((1e11, "s", 1.0), (1e14, "ms", 1e-3), (1e17, "us", 1e-6))
"""Below which value a number is taken for seconds (until the year 5138), milliseconds (from 1973), microseconds."""


def address(text: str) -> str:
    """An address as NFStream writes it (`inet_ntop`); "" for `*`."""
    if text.casefold() in _WILDCARDS:
        return ""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(_no(text, "address")) from None
    return socket.inet_ntop(socket.AF_INET if found.version == 4 else socket.AF_INET6, found.packed)


def port(text: str) -> int:
    """0 to 65535; `ANY` for `*`."""
    return _integer(text, 65_535, "port")


def protocol(text: str) -> int:
    """IANA's number of a name or number; `ANY` for `*`."""
    known = PROTOCOLS.get(text.casefold())
    return _integer(text, 255, "protocol that is known") if known is None else known


def seconds(text: str) -> float:
    """A duration in its column's unit."""
    if not _NUMBER.fullmatch(text) or not 0 <= float(text) < 1e17:
        raise ValueError(_no(text, "duration"))
    return float(text)


class Clock:
    """Reads the times of one column: unix seconds, milliseconds or microseconds, or ISO 8601, the same in all rows."""

    def __init__(self, zone: tzinfo = UTC) -> None:
        self.zone = zone
        self.format = ""
        self.zoneless = False  # whether any row's time needed `zone`

    def __call__(self, text: str) -> float:
        """Seconds since 1970 UTC."""
        found, value = self._read(text)
        if found != (self.format or found):
            raise ValueError(f"'{printable(text, 60)}' is {found}, the rows before have {self.format}")
        self.format = found
        return value

    def _read(self, text: str) -> tuple[str, float]:
        if _NUMBER.fullmatch(text):
            number = float(text)
            for limit, unit, factor in _UNITS:
                if 0 <= number < limit:
                    return f"a number of {unit}", number * factor
            raise ValueError(_no(text, "time"))
        try:
            if len(text) < 11:  # a day alone
                raise ValueError
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(_no(text, "unix or ISO 8601 time (2017-07-07T09:20:00-03:00)")) from None
        if moment.tzinfo is None:
            self.zoneless = True
            moment = moment.replace(tzinfo=self.zone)
            if moment.utcoffset() != moment.replace(fold=1).utcoffset():
                raise ValueError(f"'{printable(text, 60)}' is in the hour that the clocks were changed; add the offset")
        try:
            value = moment.timestamp()
        except OverflowError:
            raise ValueError(_no(text, "time")) from None
        if value < 0:
            raise ValueError(f"'{printable(text, 60)}' is before 1970")
        return "ISO 8601", value


def time_zone(name: str) -> tzinfo:
    """`UTC`, an offset such as `-03:00`, or a name of the IANA data base such as `America/Halifax`.

    Raises:
        ConfigError: none of these.
    """
    from zoneinfo import ZoneInfo

    if name.upper() in ("UTC", "Z"):
        return UTC
    if match := re.fullmatch(r"(?:UTC)?([+-])(\d{1,2})(?::?([0-5]\d))?", name):
        sign, hours, minutes = match.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        if offset <= timedelta(hours=15):
            return timezone(-offset if sign == "-" else offset)
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ConfigError(
            f"'{printable(name, 60)}' is no time zone",
            where="--labels-timezone",
            remedy="give UTC, an offset such as -03:00, or a name such as America/Halifax",
        ) from None


def _integer(text: str, largest: int, what: str) -> int:
    if text.casefold() in _WILDCARDS:
        return ANY
    # int() alone would take "1_000", "+80" and digits of other scripts; and 10,000 digits would take their time.
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= largest):
        raise ValueError(_no(text, what))
    return int(text)


def _no(text: str, what: str) -> str:
    return f"'{printable(text, 60)}' is no {what}" if text else f"an empty cell is no {what}"
