"""An archive from the remote registry becomes a bundle that may be looked at, or is refused.

    unpack     names, kinds and sizes of what is in the archive, judged before anything is written
    examine    digest, JSON, operators of the graph, dimensions of all files against each other
    claims     is this the bundle that was offered: name, version, family, digests
    trial      the first load and run of its graph, on its golden rows, in a confined process
    open       the first load in this process; the golden rows once more

All of it happens in a fresh folder under HOME/updates/quarantine, which is locked while whoever admitted the bundle
holds it and goes with them; what a killed process left is removed by the next. `native/` is checked for formats that
hold data alone, and never opened. What the bundle requires to be installed is not asked here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robustidps.bundle import Examined, examine, open_bundle
from robustidps.bundle.parity import TOLERANCE
from robustidps.bundle.trial import LIMITS, try_graph
from robustidps.errors import BundleError, UpdateError
from robustidps.folderlocks import Claimed, remove_abandoned
from robustidps.progress import Progress, silent
from robustidps.registry.metadata import ModelMetadata
from robustidps.sandbox import Limits
from robustidps.settings import writable
from robustidps.updates.archive import unpack
from robustidps.updates.client import Offer
from robustidps.updates.naming import family_of

__all__ = ["Admitted", "admit", "check_archive"]


@dataclass(frozen=True)
class Admitted:
    """A bundle that passed. path: of its folder, until `close` or the end of a `with` removes it."""

    path: Path
    digest: str
    metadata: ModelMetadata
    _place: Claimed = field(repr=False)

    def close(self) -> None:
        self._place.close()

    def __enter__(self) -> Admitted:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def admit(
    archive: Path,
    offer: Offer,
    folder: Path,
    *,
    metadata: ModelMetadata | None = None,
    limits: Limits = LIMITS,
    progress: Progress = silent,
) -> Admitted:
    """Lets an archive in, or refuses it and leaves nothing of it behind; the archive itself stays where it is.

    Args:
        folder: the quarantine, HOME/updates/quarantine; is made if it isn't there.
        metadata: what the version's small target said (`RemoteRegistry.metadata`), if it was asked.
        limits: on the first run of the graph.

    Raises:
        BundleError: the archive or the bundle is malformed, does what a bundle may not, or doesn't reproduce its
            golden rows. UpdateError: it is a bundle, and not the one that was offered.
        UnavailableError: no process could be started. StorageError: no room, or not writable.
    """
    label = f"{offer.name} {offer.version}"
    check_archive(archive, offer)
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_abandoned(folder)
        place = Claimed(folder, mode=0o700)
    try:
        progress("unpacking", 0, None, note=label)
        path = place.path / "bundle"
        unpack(archive, path, where=label)
        progress("auditing", 0, None, note=label)
        found = examine(path, expected_digest=offer.digest)
        _check_claims(found, offer, metadata, label)
        _try(found, limits, label, progress)
        open_bundle(path, expected_digest=offer.digest).close()
    except BaseException:
        place.close()
        raise
    return Admitted(path, found.digest, found.metadata, place)


def check_archive(archive: Path, offer: Offer) -> None:
    """That it is what was signed: the download was verified, and since then it lay on a disk.

    Raises:
        BundleError: it can't be read. UpdateError: it is something else.
    """
    try:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"can't be read: {error.strerror}", where=archive) from None
    if found != offer.sha256:
        raise UpdateError(
            "isn't the archive that was signed", where=f"{offer.name} {offer.version}", remedy="download it again"
        )


def _check_claims(found: Examined, offer: Offer, metadata: ModelMetadata | None, label: str) -> None:
    """Digest and dimensions are known to agree with the bundle's own files by now."""
    here = found.metadata
    claims = {
        "name": (here.name, offer.name),
        "version": (here.version, offer.version),
        "family": (family_of(here), offer.family),
        "schema digest": (here.schema_digest, offer.schema_digest),
    }
    for what, (is_, said) in claims.items():
        if is_ != said:
            raise UpdateError(f"its {what} is {is_!r}, it was offered as {said!r}", where=label)
    if metadata is not None and metadata != here:
        given, real = metadata.model_dump(), here.model_dump()
        which = next(key for key in real if given[key] != real[key])
        raise UpdateError(
            f"its metadata.json says another {which} than the one that was published beside it", where=label
        )


def _try(found: Examined, limits: Limits, label: str, progress: Progress) -> None:
    features, probabilities = found.golden
    answer = try_graph(
        found.model, features, found.schema.output_dim, limits=limits, where=f"{label}: model.onnx", progress=progress
    )
    worst = float(np.abs(answer - probabilities).max())
    if not worst <= TOLERANCE:  # NaN neither
        raise BundleError(
            f"doesn't reproduce its golden rows: off by {worst:.3g}, tolerated is {TOLERANCE:g}",
            where=f"{label}: model.onnx",
        )
