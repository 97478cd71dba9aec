"""What `configs/datasets/NAME.yaml` says about every public data set, whatever its loader needs beyond that.

`read_card` takes this part of such a file and leaves the rest to the loader; `default_folder` is where a set lies that
nobody put elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from robustidps.errors import NotFoundError, printable
from robustidps.settings import config_file, get_settings, known_configs, load_yaml

__all__ = ["Card", "Fetch", "FetchFile", "default_folder", "read_card"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FetchFile(_Closed):
    """One file that can be downloaded without a form. bytes, sha256: of the file as it is served, where known."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+_.-]{0,119}$", description="the name it is kept under")
    bytes: int | None = Field(default=None, gt=0)
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    sha256_by: str = Field(default="", description="who recorded the sha256, where its authors publish none")
    page: str = Field(default="", description="where its authors offer it, for a person with a browser")

    @field_validator("url")
    @classmethod
    def _without_credentials(cls, url: str) -> str:
        if "@" in urlsplit(url).netloc:
            raise ValueError("must not hold a user name or a password")
        return url


class Fetch(_Closed):
    """How the set is had from its authors: files to download, a page with a form and what to do there, or, where its
    releases differ in that, both."""

    files: tuple[FetchFile, ...] = ()
    page: str = Field(default="", description="where a person goes when there is a form in between")
    steps: tuple[str, ...] = Field(default=(), description="what to do there, one sentence each")


class Card(_Closed):
    """Title, origin and terms of a public data set; `card` is its page for people."""

    title: str
    card: str
    source: str
    licence: str
    citation: str
    fetch: Fetch | None = None


class _CardAlone(Card):
    """A card in a file that says more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def read_card(name: str) -> Card:
    """The card of a data set, by the name of its file.

    Raises:
        NotFoundError: no such data set. ConfigError: its file doesn't hold a card.
    """
    known = known_configs("datasets")
    if name not in known:
        raise NotFoundError(f"no public data set '{printable(name, 60)}'", remedy=f"known: {', '.join(known)}")
    return load_yaml(config_file("datasets", name), _CardAlone)


def default_folder(name: str) -> Path:
    """Where a public data set's files lie unless told otherwise: `HOME/datasets/NAME`; may not exist."""
    return get_settings().home / "datasets" / name
