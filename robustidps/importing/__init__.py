"""Models that were made elsewhere, and how one becomes a bundle like any other.

    what is given                       how it is read
    .onnx                               audited, then loaded and run once in a process of its own         graphs.py
    .keras, a SavedModel folder         audited, then converted in a process of its own                   keras_files.py
    .pt, .pth, .safetensors             weights alone, unpickled (weights_only) in a process of its own   weights.py
        with a torch.nn.Module              that module is given the weights
        with a family's name                the family builds its network around them
    a torch.nn.Module, a Keras model    the caller's own code: exported here                              objects.py

Whatever it was, it ends as an audited ONNX graph and as that model's own answers for the same rows. The graph has run
in a confined process before it is loaded here; then `write_bundle` puts preprocessing before it and softmax behind it,
and the parity gate holds the result against the model's own answers. `rows.py` draws rows where the caller has none.

Two things a file doesn't say, and the caller may: `features` (does the model take raw features, as the guide's models
do, or standardised ones, as families do) and `output` (does it end in logits or in probabilities; found out where it
isn't said).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from robustidps.calibration import softmax
from robustidps.errors import BundleError, InputError, NotFoundError, ParityError, SchemaError, printable
from robustidps.preprocessing import Preprocessing
from robustidps.progress import Progress, silent
from robustidps.registry.metadata import ModelMetadata
from robustidps.settings import exists, writable
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.bundle import Bundle

__all__ = ["FAMILY", "Features", "Imported", "Output", "as_logits", "import_model"]

Features = Literal["raw", "standardised"]
Output = Literal["auto", "logits", "probabilities"]
Floats = npt.NDArray[np.float32]

FAMILY = "onnx_import"
"""The family of a version whose metadata names none: what is kept and served of it is its ONNX graph."""

MOST_ROWS = 5000
"""Rows that a model is tried on; as many as the parity gate compares."""

_SUM = 1e-4  # how far a row of probabilities in float32 may be from 1


@dataclass(frozen=True)
class Imported:
    """A model that was read: satisfies `families.TrainedModel` for the rows it was asked about.

    graph: audited ONNX, from `names[0]` float32 [N, D] to `names[1]` float32 [N, C].
    x, y: what the model itself, in its own framework, said of these rows: [N, D] and [N, C].
    output: what `y` is. native: files to keep in the bundle, by name.
    """

    graph: bytes
    names: tuple[str, str]
    x: Floats
    y: Floats
    output: Literal["logits", "probabilities"] = "logits"
    native: dict[str, bytes] = field(default_factory=dict)

    def logits(self, x: Floats) -> Floats:
        """The logits of the rows that were asked; probabilities count as their logarithms."""
        if not np.array_equal(x, self.x):
            raise InputError("a model from elsewhere answers for the rows it was tried on")
        return as_logits(self.y) if self.output == "probabilities" else self.y

    def export_onnx(self, path: Path) -> None:
        from robustidps.importing.graphs import to_family_graph

        with writable(path):
            path.write_bytes(to_family_graph(self.graph, self.names, self.output))

    def save_native(self, folder: Path) -> None:
        with writable(folder):
            for name, data in self.native.items():
                (folder / name).write_bytes(data)


LEAST = np.float32(1e-30)
"""What a probability of 0 counts as: its logarithm is finite, and softmax gives it back as next to nothing."""


def as_logits(probabilities: Floats) -> Floats:
    """ln(max(p, 1e-30)): softmax of it is p again. float32 [N, C]."""
    return np.log(np.maximum(probabilities, LEAST))


def import_model(
    model: Any,
    out: Path,
    *,
    metadata: ModelMetadata,
    schema: TrafficSchema | None = None,
    rows: TrafficSet | None = None,
    network: Any = None,
    features: Features = "raw",
    output: Output = "auto",
    progress: Progress = silent,
) -> Bundle:
    """Reads a model of whatever kind and writes it as a bundle.

    Args:
        model: a path (see this module's table), a `torch.nn.Module`, or a Keras model.
        out: the bundle's folder; must not exist yet.
        metadata: what the version is. `thresholds`, where none are given, are fitted to labelled `rows`, else 0.5 each.
        schema: what its columns and classes mean; default: that of `rows`, else flow64.
        rows: traffic to compare it on, better the traffic it was trained on: medians for missing values, means and
            spreads (for `standardised`), and the reference that drift is measured against come from it. Default: rows
            drawn from the schema, which try the computation and say nothing of the network's traffic.
        network: the module that a file of weights belongs to.
        features: what the model takes: the schema's F raw columns in their units, with missing values filled in as the
            schema says; or what `Preprocessing.fit(schema, rows.features)` makes of them.
        output: what it gives; `auto` looks whether every row is non-negative and sums to 1.

    Raises:
        InputError, NotFoundError: not a kind of model that can be read; `rows` are needed and missing.
        SchemaError: model, metadata, schema and rows don't fit each other.
        BundleError: the file is malformed, holds what isn't allowed, or failed when it was tried.
        ParityError: the exported model disagrees with itself. MissingExtraError: a framework isn't installed.
        VersionExistsError, StorageError: as `write_bundle`.
    """
    from robustidps.bundle import write_bundle
    from robustidps.traffic.flow64 import FLOW64

    where = model if isinstance(model, Path) else type(model).__name__
    schema = schema or (rows.schema if rows is not None else FLOW64)
    _demand_fitting(metadata, schema, rows, where)
    sample, reference, preprocessing = _surroundings(schema, rows, features, where)
    x = preprocessing.transform(sample.features)
    progress("reading the model", 0, None)
    imported = _read(model, network, metadata, x, schema, features, progress)
    imported = _with_output(imported, output, where)
    probabilities = softmax(imported.logits(x), metadata.temperature)
    told = {
        "family": metadata.family or FAMILY,
        "thresholds": metadata.thresholds or _thresholds(probabilities, sample),
        "checksum": "",
    }
    progress("writing bundle", 0, None)
    try:
        return write_bundle(
            out,
            metadata=ModelMetadata.model_validate(metadata.model_dump() | told),
            schema=schema,
            trained=imported,
            preprocessing=preprocessing,
            temperature=metadata.temperature,
            rows=sample,
            reference=reference,
        )
    except ParityError as error:
        raise ParityError(
            error.problem,
            where=where,
            remedy="its export computes something else; or, where it is off by little, its inputs are so large that "
            "two programs round them differently: scale them inside the model, or use standardised features",
        ) from None


def _demand_fitting(metadata: ModelMetadata, schema: TrafficSchema, rows: TrafficSet | None, where: object) -> None:
    """Everything that can be refused before the model is looked at."""
    if rows is not None and rows.schema.digest != schema.digest:
        raise SchemaError(f"the rows are of schema {rows.schema.name}, the model's is {schema.name}", where=where)
    if rows is not None and not len(rows):
        raise InputError("there is no row to try the model on", where=where, remedy="give traffic with rows in it")
    said = (metadata.input_dim, metadata.output_dim)
    if said != (schema.input_dim, schema.output_dim):
        raise SchemaError(
            f"metadata says {said[0]} features x {said[1]} classes, schema {schema.name} has "
            f"{schema.input_dim} x {schema.output_dim}",
            where=where,
            remedy="correct the metadata, or name the model's own schema",
        )
    if metadata.thresholds and set(metadata.thresholds) != set(schema.classes[1:]):
        odd = sorted(set(metadata.thresholds) ^ set(schema.classes[1:]))
        raise SchemaError(f"thresholds and attack classes differ: {', '.join(odd[:5])}", where="metadata")


def _surroundings(
    schema: TrafficSchema, rows: TrafficSet | None, features: str, where: object
) -> tuple[TrafficSet, dict[str, Any], Preprocessing]:
    """The rows that the model is tried on, the reference for drift, and what stands before the model."""
    from robustidps.evaluation.reference import profile
    from robustidps.importing.rows import draw, empty_profile
    from robustidps.training import even_sample

    if features not in ("raw", "standardised"):
        raise InputError(f"features={printable(features)!r}", where=where, remedy="use raw or standardised")
    if rows is None and features == "standardised":
        raise InputError(
            "means and spreads of standardised features come from rows, and none were given",
            where=where,
            remedy="give the traffic it was trained on (rows=, --rows FILE.parquet)",
        )
    sample = draw(schema) if rows is None else even_sample(rows, MOST_ROWS, 0)
    known = sample if rows is None else rows
    fitted = Preprocessing.fit(schema, known.features)
    reference = empty_profile(schema) if rows is None else profile(rows)
    return sample, reference, fitted if features == "standardised" else fitted.raw()


def _read(
    model: Any,
    network: Any,
    metadata: ModelMetadata,
    x: Floats,
    schema: TrafficSchema,
    features: str,
    progress: Progress,
) -> Imported:
    from robustidps.importing import graphs, keras_files, objects, weights

    if not isinstance(model, str | Path):
        return objects.read(model, x, schema, progress)
    path = Path(model)
    if not exists(path):
        raise NotFoundError("no such file", where=path)
    suffix = path.suffix.lower()
    if network is not None and suffix not in (".pt", ".pth", ".safetensors"):
        raise InputError(
            "holds a whole model, and a module was given beside it", where=path, remedy="leave one of them out"
        )
    if path.is_dir() or suffix == ".keras":
        if path.is_dir() and not (path / "saved_model.pb").is_file():
            raise InputError(
                "is neither a bundle folder nor a SavedModel", where=path, remedy="both are told by what lies in them"
            )
        return keras_files.read(path, x, schema, progress)
    if suffix == ".onnx":
        return graphs.read(path, x, schema, progress)
    if suffix in (".pt", ".pth", ".safetensors"):
        with tempfile.TemporaryDirectory(prefix="robustidps-") as folder:
            tensors = weights.read(path, Path(folder), progress)
            if network is not None:
                made = objects.read(objects.with_weights(network, tensors, path), x, schema, progress)
                made.native["weights.safetensors"] = tensors.read_bytes()
                return made
            if features != "standardised":
                raise InputError(
                    "are weights alone, without the module that they belong to",
                    where=path,
                    remedy="give the module as well (model=), or, for weights of a family of ours, its name in the "
                    "metadata and features='standardised'",
                )
            return weights.of_family(metadata, tensors, path, x, schema, progress)
    hint = {".h5": "save it as .keras", ".hdf5": "save it as .keras"}.get(suffix)
    raise InputError(
        f"{suffix or 'a file without an ending'} is no kind of model that can be read",
        where=path,
        remedy=hint or "use a bundle, .onnx, .keras, a SavedModel folder, .safetensors, or a state dict as .pt",
    )


def _with_output(imported: Imported, declared: str, where: object) -> Imported:
    """`imported` with its output named: as declared, if that can be so, or as found out."""
    from dataclasses import replace

    if declared not in ("auto", "logits", "probabilities"):
        raise InputError(f"output={printable(declared)!r}", where=where, remedy="use auto, logits or probabilities")
    y = imported.y
    if not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y).all(axis=1))[0])
        raise BundleError(f"gives no number for row {row} of those it was tried on", where=where)
    odd = np.flatnonzero((y < -_SUM).any(axis=1) | (np.abs(y.sum(axis=1) - 1) > _SUM))
    if declared == "probabilities" and len(odd):
        raise BundleError(
            f"its probabilities of row {odd[0]} sum to {y[odd[0]].sum():.4g} (lowest {y[odd[0]].min():.4g})",
            where=where,
            remedy="declare its output as logits, or put a softmax at its end",
        )
    if declared == "logits" and not len(odd):
        raise BundleError(
            "is declared to give logits, and every row of what it gives is a row of probabilities",
            where=where,
            remedy="declare its output as probabilities: a second softmax would flatten them",
        )
    return replace(imported, output="logits" if len(odd) else "probabilities")


def _thresholds(probabilities: Floats, sample: TrafficSet) -> dict[str, float]:
    """Fitted to labelled rows with benign ones among them; else an attack alerts when it is likelier than all else."""
    from robustidps.decisions import fit_thresholds

    if (sample.labels == 0).any() and (sample.labels > 0).any():
        return fit_thresholds(probabilities, sample.labels, sample.schema)
    return dict.fromkeys(sample.schema.classes[1:], 0.5)
