"""A model that isn't a bundle yet, on its way into the registry: number taken, bundle made, registered, or nothing.

The number is reserved before anything slow begins, so that two people can't work on the same; whatever goes wrong
before the registration proper has begun gives it back. From there on `registration.py` has its own way of going on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.errors import InputError, NotFoundError
from robustidps.registry.metadata import ModelMetadata, check_version
from robustidps.settings import check_name, exists

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry

__all__ = ["as_bundle", "is_bundle"]


def is_bundle(model: Any) -> bool:
    """Whether `model` is the path of a bundle's folder."""
    return isinstance(model, str | Path) and (Path(model) / "metadata.json").is_file()


@contextmanager
def as_bundle(
    registry: ModelRegistry, name: str, version: str, model: Any, metadata: ModelMetadata | None, **options: Any
) -> Iterator[Path]:
    """A bundle made of `model`, for the length of the block; options as for `importing.import_model`.

    Raises:
        InputError: no metadata, or that of another name or version. VersionExistsError: the number is taken.
    """
    from robustidps.importing import import_model

    check_name(name)
    check_version(version)
    if isinstance(model, str):
        model = Path(model)
    where = model if isinstance(model, Path) else f"{name} {version}"
    if isinstance(model, Path) and not exists(model):
        raise NotFoundError("no such file or folder", where=model)
    if metadata is None:
        raise InputError("isn't a bundle, so it needs metadata", where=where, remedy="give a ModelMetadata")
    if (metadata.name, metadata.version) != (name, version):
        raise InputError(f"the metadata is {metadata.name} {metadata.version}'s, not {name} {version}'s", where=where)
    ours = _reserve(registry, name, version)
    try:
        folder = registry.settings.folder("runs")
        with tempfile.TemporaryDirectory(prefix=f"import-{name}-", dir=folder) as work:
            bundle = import_model(model, Path(work) / "bundle", metadata=metadata, **options)
            bundle.close()
            yield bundle.path
    except BaseException:
        if ours and registry.version(name, version).digest is None:
            registry.release_reservation(name, version)
        raise


def _reserve(registry: ModelRegistry, name: str, version: str) -> bool:
    """Whether the number was reserved here; a reservation of the caller's own stays the caller's."""
    try:
        found = registry.version(name, version)
    except NotFoundError:
        found = None
    if found is not None and found.status == "reserved":
        return False
    registry.reserve_version(name, version)  # of a registered one, says that it exists
    return True
