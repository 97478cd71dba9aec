"""What `configs/datasets/NAME.yaml` says about every public data set, whatever its loader needs beyond that."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Card", "Fetch", "FetchFile"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FetchFile(_Closed):
    """One file that can be downloaded without a form. bytes, sha256: of the file as it is served, where known."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    file: str = Field(pattern=r"^[A-Za-z0-9+_.-]{1,120}$", description="the name it is kept under")
    bytes: int | None = Field(default=None, gt=0)
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class Fetch(_Closed):
    """How the set is had from its authors: files to download, or a page with a form and what to do there."""

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
