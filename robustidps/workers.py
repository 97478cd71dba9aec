"""Families trained side by side in processes of their own: where those are, and what they must be told.

Dask's wire format is pickle: whoever reaches a scheduler or a worker runs code as the one who started it. Hence three
rules. What we start ourselves listens on loopback, and only to holders of a certificate that was made for this one run.
A cluster elsewhere is used where its address is given expressly, and nowhere else. What travels there is plain: paths,
digests and settings, never traffic or models; those go by file, through a home folder that all can reach, and passwords
stay behind unless the wire is encrypted or never leaves the machine.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from robustidps.errors import ConfigError, printable, without_passwords
from robustidps.settings import DASK, SECRETS, Settings, make_settings, use_settings

__all__ = ["LOCAL", "OFF", "at_once", "carried", "check_place", "demand_shared", "is_loopback", "received"]

OFF, LOCAL = "off", "local"
MEMORY = 2 << 30
"""Bytes that a process with one framework and one training is reckoned to take."""

_URLS = ("database_url", "mlflow_tracking_uri")


def check_place(where: str | None) -> None:
    """Raises ConfigError unless `where` is None or something that the setting `dask` may be."""
    if where is not None and not re.fullmatch(DASK, where):
        raise ConfigError(
            f"{printable(where, 80)!r} is no place to train in",
            where="--dask",
            remedy="local, off, tcp://HOST:PORT or tls://HOST:PORT",
        )


def at_once(most: int, wanted: int | None = None, *, memory: int | None = None) -> int:
    """How many trainings of one thread to run at once: `wanted`, or as many as there are cores; at most `most`.

    Args:
        memory: bytes of this machine, where each training takes memory of its own.
    """
    fits = len(os.sched_getaffinity(0))
    if memory is not None:
        fits = min(fits, memory // MEMORY)
    return max(1, min(most, wanted or fits))


def is_loopback(address: str) -> bool:
    """Whether `tcp://HOST:PORT` can be reached from this machine alone."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def demand_shared(address: str, settings: Settings, orchestrator: str | None) -> None:
    """Refuses a scheduler elsewhere whose workers couldn't write what they make to where we look for it.

    Args:
        orchestrator: Prefect's address, where one is set.

    Raises:
        ConfigError: SQLite, or a Prefect server of this process's own, which are for one machine.
    """
    if is_loopback(address):
        return
    for key, url in (("database_url", settings.state_url), ("mlflow_tracking_uri", settings.tracking_uri)):
        if url.startswith("sqlite"):
            raise ConfigError(
                "is an SQLite file, which processes on several machines can't share",
                where=key,
                remedy="set it to a server's address, or train on this machine (--dask local)",
            )
    if not orchestrator or is_loopback(orchestrator):
        raise ConfigError(
            "is not a server that workers elsewhere can reach",
            where="PREFECT_API_URL",
            remedy="set it to a Prefect server's address, or train on this machine (--dask local)",
        )


class Carried(dict[str, Any]):
    """Settings on their way. Dask logs what a task was given when it fails: this shows no password."""

    def __repr__(self) -> str:
        return without_passwords(super().__repr__())


def carried(settings: Settings, address: str) -> dict[str, Any]:
    """Settings as they travel to a worker; `received` puts them in force there."""
    sent = settings.model_dump(mode="json", exclude=set(SECRETS))
    if not (address == LOCAL or address.startswith("tls://") or is_loopback(address)):
        sent |= {key: _hidden(sent[key]) for key in _URLS}
    return Carried(sent)


@contextmanager
def received(sent: dict[str, Any]) -> Iterator[Settings]:
    """Puts settings that were `carried` here in force for a block.

    Raises:
        ConfigError: the home folder isn't there, or a password stayed behind that this process doesn't know.
    """
    home = Path(sent["home"])
    if not home.is_dir():
        raise ConfigError(
            "isn't there on the machine of a worker", where=home, remedy="share the home folder, at the same path"
        )
    own = make_settings(home=home)
    for key in _URLS:
        if sent[key] != _hidden(sent[key]):
            continue
        mine = getattr(own, key)
        if mine and mine != sent[key] and _hidden(mine) == sent[key]:
            sent = sent | {key: mine}
        elif sent[key] and "***" in sent[key]:
            raise ConfigError(
                "has a password that doesn't travel over plain TCP, and the worker has none of its own",
                where=key,
                remedy=f"set ROBUSTIDPS_{key.upper()} where workers are started, or use a tls:// scheduler",
            )
    with use_settings(make_settings(**sent)) as settings:
        yield settings


def _hidden(url: str | None) -> str | None:
    return None if url is None else without_passwords(url)
