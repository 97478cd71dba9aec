"""Metadata and schema as files, as `robustidps registry add` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustidps.bundle.files import FILES, strict_json
from robustidps.errors import BundleError, ConfigError, InputError, NotFoundError
from robustidps.registry.metadata import ModelMetadata
from robustidps.settings import config_error, load_yaml
from robustidps.traffic.schema import TrafficSchema

__all__ = ["read_metadata", "read_schema"]

_MADE_BY = {".onnx": "onnx", ".keras": "tensorflow", ".pt": "pytorch", ".pth": "pytorch", ".safetensors": "pytorch"}


def read_metadata(
    file: Path | None, name: str, version: str, schema: TrafficSchema | None, model: Path
) -> ModelMetadata:
    """What the file says, and for what it leaves out: name and version as given, sizes from the schema, framework from
    the model's ending.

    Raises:
        NotFoundError, InputError: no such file, or not a JSON object. ConfigError: a key that is none, or a bad value.
    """
    from robustidps.traffic.flow64 import FLOW64

    schema = schema or FLOW64
    kind = _MADE_BY.get(model.suffix.lower(), "tensorflow" if model.is_dir() else "onnx")
    content: dict[str, Any] = {"name": name, "version": version, "model_type": kind, "framework": kind}
    content |= {"input_dim": schema.input_dim, "output_dim": schema.output_dim}
    if file is not None:
        content |= _object(file)
    try:
        return ModelMetadata.model_validate(content)
    except ValidationError as error:
        raise config_error(error, file or "metadata", ModelMetadata) from None


def read_schema(file: Path) -> TrafficSchema:
    """A `schema.json`, as a bundle has it, or the schema of a table's schema file (YAML, docs/data.md).

    Raises:
        NotFoundError, InputError: no such file, or not a JSON object. ConfigError: not a schema.
    """
    if file.suffix.lower() != ".json":
        from robustidps.traffic.loaders.spec import TableSpec

        return load_yaml(file, TableSpec).traffic_schema
    try:
        return TrafficSchema.model_validate(_object(file))
    except ValidationError as error:
        raise config_error(error, file, TrafficSchema) from None


def _object(file: Path) -> dict[str, Any]:
    limit = FILES["schema.json"]
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except FileNotFoundError:
        raise NotFoundError("no such file", where=file) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=file) from None
    if len(data) > limit:
        raise ConfigError(f"is larger than {limit >> 20} MiB", where=file)
    try:
        return strict_json(data, file)
    except BundleError as error:
        raise InputError(error.problem, where=file) from None
