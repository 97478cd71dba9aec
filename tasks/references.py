"""What travels between tasks: paths and digests as plain JSON, never the data itself.

A `TrafficRef` names a Parquet file in the home folder. Its digest is checked when it is read, so a cached task
result that points at a file since edited or deleted is noticed instead of used.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from robustidps.errors import DatasetError
from robustidps.settings import used
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["TrafficRef", "load", "store"]


class TrafficRef(BaseModel):
    """Where a traffic set lies and what it must contain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    digest: str
    rows: int

    @property
    def usable(self) -> bool:
        """Whether the file is still there (its content is checked by `load`)."""
        return used(Path(self.path)).is_file()


def store(traffic: TrafficSet, folder: Path, name: str) -> TrafficRef:
    """Writes `traffic` to `folder/NAME-DIGEST.parquet` unless it is there. Raises StorageError."""
    path = folder / f"{name}-{traffic.digest[:16]}.parquet"
    if not used(path).is_file():
        traffic.write(path)
    return TrafficRef(path=str(path), digest=traffic.digest, rows=len(traffic))


def load(ref: TrafficRef | dict) -> TrafficSet:
    """Reads what a reference names.

    Raises:
        DatasetError: the file is gone or holds something else.
    """
    ref = TrafficRef.model_validate(ref)
    traffic = TrafficSet.read(used(Path(ref.path)))
    if traffic.digest != ref.digest:
        raise DatasetError("was changed since it was written", where=ref.path, remedy="delete it and run again")
    return traffic
