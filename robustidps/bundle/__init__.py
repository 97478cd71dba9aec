"""A bundle: what a trained model is once it leaves training. Written once, whole or not at all, and never changed.

`write_bundle` composes the family's graph with preprocessing and softmax, has it pass the parity gate, writes all
files into a hidden sibling folder, opens the result as anyone else would, and renames it. `open_bundle` goes build ->
audit -> construct: names, sizes and the digest are checked, then the graph's operators, then dimensions against each
other, and only then does ONNX Runtime see anything; the golden rows it has to reproduce come last. A `Bundle` answers
`probabilities(x)` from raw features and needs neither the family nor its framework.

    files.py     what may lie in the folder, the digest    graph.py      composing the graph
    audit.py     what may stand in the graph               parity.py     the gate
    session.py   running it                                trial.py      a stranger's graph, tried in its own process
    merge.py     several graphs as one                     trees.py      decision trees that end
    docs/bundle.md   the format in words
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from robustidps.bundle import parity
from robustidps.bundle.audit import INPUT, audit
from robustidps.bundle.files import (
    Contents,
    canonical,
    digest_of,
    pack_golden,
    read_folder,
    strict_json,
    unpack_golden,
)
from robustidps.bundle.graph import STANDARDISED, compose_bytes, standardising
from robustidps.bundle.parity import TOLERANCE, ParityReport
from robustidps.bundle.session import BATCH, Session
from robustidps.calibration import softmax
from robustidps.errors import BundleError, RobustIDPSError, SchemaError, VersionExistsError, printable
from robustidps.evaluation.reference import fitting_profile
from robustidps.families import TrainedModel
from robustidps.folderlocks import Claimed, remove_abandoned
from robustidps.preprocessing import Preprocessing
from robustidps.registry.metadata import ModelMetadata
from robustidps.settings import writable
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import TrafficSet

__all__ = [
    "Bundle",
    "Examined",
    "bundle_digest",
    "examine",
    "open_bundle",
    "verified_model",
    "verified_native",
    "write_bundle",
    "write_graph",
]

GOLDEN_ROWS = 256
PARITY_ROWS = 5000
_PARTIAL = re.compile(r"\.partial-.+-[0-9a-f]{8}")

Floats = npt.NDArray[np.float32]


class Bundle:
    """A verified bundle, ready to be asked. Made by `open_bundle` and `write_bundle`; safe to use from several threads.

    metadata, schema: what the model is and what its columns and classes mean.
    digest: SHA-256 (hex) that names exactly these files.
    reference: the training distribution (`reference.json`); evaluation: figures at training time, or None.
    golden: raw features [n, F] and the native model's probabilities [n, C].
    parity: how well native model and ONNX agreed; only on the bundle that `write_bundle` returns.
    """

    def __init__(
        self,
        path: Path,
        digest: str,
        metadata: ModelMetadata,
        schema: TrafficSchema,
        reference: dict[str, Any],
        evaluation: dict[str, Any] | None,
        golden: tuple[Floats, Floats],
        session: Session,
    ) -> None:
        self.path = path
        self.digest = digest
        self.metadata = metadata
        self.schema = schema
        self.reference = reference
        self.evaluation = evaluation
        self.golden = golden
        self.parity: ParityReport | None = None
        self._session: Session | None = session
        self._refuse = np.array([f.missing == "refuse" for f in schema.features])

    @property
    def thresholds(self) -> dict[str, float]:
        """Per attack class: the probability from which a flow raises an alert."""
        return dict(self.metadata.thresholds)

    def probabilities(self, x: npt.ArrayLike, *, batch: int = BATCH) -> Floats:
        """Raw features [N, F] to probabilities float32 [N, C], on one thread, `batch` rows at a time.

        NaN stands for a missing value where the feature's rule allows one.

        Raises:
            SchemaError: a wrong width, an infinity, or a NaN where the schema refuses one; names row and column.
            BundleError: the model gives something that isn't a number.
        """
        session = self._session
        if session is None:
            raise RuntimeError("this bundle has been closed")
        rows = np.ascontiguousarray(x, dtype=np.float32)
        self._check(rows)
        if not len(rows):
            return np.empty((0, self.schema.output_dim), np.float32)
        out = session.run(rows, batch)
        if not np.isfinite(out).all():
            row = int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0])
            raise BundleError(f"the model gives no number for row {row}", where=self.path)
        return out

    def standardised(self, x: npt.ArrayLike) -> Floats:
        """Raw features [N, F] to what the family's model sees, float32 [N, D], by the bundle's own graph.

        Raises:
            SchemaError: as `probabilities`. BundleError: edited since it was opened. InputError: see `standardising`.
        """
        where = self.path / "model.onnx"
        part = standardising(verified_model(self.path, self.digest), where)
        rows = np.ascontiguousarray(x, dtype=np.float32)
        self._check(rows)
        return Session(part, where, names=(INPUT, STANDARDISED)).run(rows)

    def _check(self, rows: Floats) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.schema.input_dim:
            raise SchemaError(f"features have shape {rows.shape}, expected (N, {self.schema.input_dim})")
        if np.isfinite(rows).all():
            return
        bad = np.isinf(rows) | (np.isnan(rows) & self._refuse)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            name = self.schema.feature_names[column]
            if np.isinf(rows[row, column]):
                raise SchemaError("is infinite", where=f"row {row}, column {name!r}", remedy="give NaN for missing")
            raise SchemaError("is missing and may not be", where=f"row {row}, column {name!r}", remedy="drop the row")

    def close(self) -> None:
        """Lets go of the model; asking again is an error. Rows that are being computed are finished."""
        self._session = None

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bundle {self.metadata.name} {self.metadata.version} {self.digest[:12]}>"


def open_bundle(folder: Path, *, expected_digest: str | None = None) -> Bundle:
    """Opens a bundle after verifying all of it.

    Args:
        expected_digest: what the registry, a decision or a publisher says the bundle is.

    Raises:
        NotFoundError: there is no such folder.
        BundleError: it isn't a bundle, was edited, or doesn't reproduce its golden rows.
    """
    folder = Path(folder)
    contents = read_folder(folder)
    digest = _verify(contents, expected_digest)
    return _construct(contents, digest)


def bundle_digest(folder: Path) -> str:
    """The digest that the files in `folder` have now, whatever metadata.json says it should be.

    Raises:
        NotFoundError: there is no such folder.
        BundleError: it isn't a bundle.
    """
    contents = read_folder(Path(folder))
    return digest_of(contents, strict_json(contents.files["metadata.json"], contents.where / "metadata.json"))


def verified_model(folder: Path, expected_digest: str) -> bytes:
    """The graph of the bundle that has this digest, as it was read when that was checked. Raises as `open_bundle`."""
    contents = read_folder(Path(folder))
    _verify(contents, expected_digest)
    return contents.files["model.onnx"]


@contextmanager
def verified_native(folder: Path, expected_digest: str) -> Iterator[Path]:
    """A copy of the bundle's `native` folder for the length of a block, file by file what the digest was made of.

    Raises:
        BundleError: it holds no native artefact, or is another bundle than the one expected. And as `open_bundle`.
    """
    folder = Path(folder)
    contents = read_folder(folder)
    _verify(contents, expected_digest)
    native = [(path, sha256) for path, _, sha256 in contents.listing if path.startswith("native/")]
    if not native:
        raise BundleError("holds no model in its framework's own format", where=folder)
    with tempfile.TemporaryDirectory(prefix="robustidps-native-") as temporary:
        copy = Path(temporary)
        (copy / "native").mkdir()
        for path, sha256 in native:
            data = (folder / path).read_bytes()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise BundleError("was changed while it was read", where=folder / path)
            (copy / path).write_bytes(data)
        yield copy / "native"


def _verify(contents: Contents, expected_digest: str | None) -> str:
    where = contents.where / "metadata.json"
    data = contents.files["metadata.json"]
    metadata = strict_json(data, where)
    if canonical(metadata) != data:  # else an edit of blanks alone would go unnoticed
        raise BundleError("isn't written in the canonical way: it was edited", where=where, remedy="restore the bundle")
    digest = digest_of(contents, metadata)
    if metadata.get("checksum") != digest:
        raise BundleError(
            "the files don't have the digest that metadata.json names: something was edited or damaged",
            where=contents.where,
            remedy="restore the bundle from the registry",
        )
    if expected_digest is not None and digest != expected_digest:
        raise BundleError(
            f"is another bundle ({digest[:12]}..) than the one expected ({printable(expected_digest, 12)}..)",
            where=contents.where,
        )
    return digest


@dataclass(frozen=True)
class Examined:
    """All of a bundle but a loaded model: what `examine` read and found right. model: the graph's bytes, audited.

    golden: raw features [n, F] and the native model's probabilities [n, C].
    """

    path: Path
    digest: str
    metadata: ModelMetadata
    schema: TrafficSchema
    reference: dict[str, Any]
    evaluation: dict[str, Any] | None
    golden: tuple[Floats, Floats]
    model: bytes


def examine(folder: Path, *, expected_digest: str | None = None) -> Examined:
    """Verifies and audits a bundle, and stops before ONNX Runtime would see its graph.

    Raises:
        NotFoundError: there is no such folder.
        BundleError: it isn't a bundle, was edited, or is another one than expected.
    """
    contents = read_folder(Path(folder))
    return _examine(contents, _verify(contents, expected_digest))


def _construct(contents: Contents, digest: str) -> Bundle:
    e = _examine(contents, digest)
    session = Session(e.model, where=e.path / "model.onnx")
    bundle = Bundle(e.path, e.digest, e.metadata, e.schema, e.reference, e.evaluation, e.golden, session)
    _replay(bundle)
    return bundle


def _examine(contents: Contents, digest: str) -> Examined:
    folder, files = contents.where, contents.files
    metadata = ModelMetadata.from_json(files["metadata.json"], where=folder / "metadata.json")
    try:
        schema = TrafficSchema.model_validate_json(files["schema.json"])
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(printable(first["msg"]), where=f"{folder / 'schema.json'}: {first['loc']}") from None
    reference = strict_json(files["reference.json"], folder / "reference.json")
    evaluation = None
    if "evaluation.json" in files:
        evaluation = strict_json(files["evaluation.json"], folder / "evaluation.json")
    facts = audit(files["model.onnx"], where=folder / "model.onnx")
    sizes = {
        "metadata.json": (metadata.input_dim, metadata.output_dim),
        "schema.json": (schema.input_dim, schema.output_dim),
        "model.onnx": (facts.input_dim, facts.output_dim),
    }
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {f} x {c}" for name, (f, c) in sizes.items())
        raise BundleError(f"its files disagree about features x classes: {said}", where=folder)
    if metadata.schema_digest != schema.digest:
        raise BundleError("isn't the schema that metadata.json names", where=folder / "schema.json")
    if strangers := set(metadata.thresholds) - set(schema.classes[1:]):
        raise BundleError(f"thresholds for {sorted(strangers)[:3]}, no attack class", where=folder / "metadata.json")
    fitting_profile(reference, schema, folder / "reference.json")
    golden = unpack_golden(files["golden.npz"], schema.input_dim, schema.output_dim, where=folder / "golden.npz")
    return Examined(folder, digest, metadata, schema, reference, evaluation, golden, files["model.onnx"])


def _replay(bundle: Bundle) -> None:
    features, probabilities = bundle.golden
    try:
        now = bundle.probabilities(features)
    except SchemaError as error:
        raise BundleError(f"a golden row can't be classified: {error}", where=bundle.path / "golden.npz") from None
    worst = float(np.abs(now - probabilities).max())
    if worst > TOLERANCE:
        raise BundleError(
            f"doesn't reproduce its golden rows: off by {worst:.3g}, tolerated is {TOLERANCE:g}",
            where=bundle.path / "model.onnx",
            remedy="the model isn't the one that was trained, or this ONNX Runtime computes differently",
        )


def write_bundle(
    folder: Path,
    *,
    metadata: ModelMetadata,
    schema: TrafficSchema,
    trained: TrainedModel,
    preprocessing: Preprocessing,
    temperature: float,
    rows: TrafficSet,
    reference: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
) -> Bundle:
    """Exports, compares, writes and opens a bundle; what isn't right is never written.

    Args:
        folder: where the bundle shall be; must not exist yet.
        metadata: `checksum`, `schema_digest` and `temperature` are filled in here.
        rows: real rows, for the parity gate and (up to 256 of them) as golden rows.
        reference: aggregates of the training distribution, for drift (`evaluation.reference.profile`).
        evaluation: figures at training time.

    Raises:
        VersionExistsError: `folder` is there already.
        SchemaError: schema, metadata, preprocessing and rows don't fit each other.
        ParityError: ONNX and native model disagree.
        BundleError: the family exports something that a bundle can't hold.
        StorageError: full disk or read-only folder; nothing is left behind.
    """
    folder = Path(folder)
    width = schema.input_dim if preprocessing.fills_only else schema.standardised_dim
    if (preprocessing.input_dim, preprocessing.output_dim) != (schema.input_dim, width):
        raise SchemaError("the preprocessing was fitted for another schema", where=schema.name)
    metadata = ModelMetadata.model_validate(metadata.model_dump() | {"temperature": float(temperature)})

    def export(work: Path) -> bytes:
        with _disk_errors(folder):
            trained.export_onnx(work / "logits.onnx")
        return compose_bytes(work / "logits.onnx", preprocessing, temperature)

    def probabilities(x: Floats) -> Floats:
        return softmax(trained.logits(preprocessing.transform(x)), temperature)

    return _write(
        folder, metadata, schema, export, probabilities, rows, reference, evaluation, native=trained.save_native
    )


def write_graph(
    folder: Path,
    *,
    metadata: ModelMetadata,
    schema: TrafficSchema,
    model: bytes,
    probabilities: Callable[[Floats], Floats],
    rows: TrafficSet,
    reference: dict[str, Any],
) -> Bundle:
    """As `write_bundle`, for a graph that is whole already: raw features to probabilities, temperature and all.

    Args:
        model: the ONNX file's bytes.
        probabilities: raw rows [N, F] to [N, C], computed another way than by `model`: what it has to agree with.

    Raises:
        What `write_bundle` raises.
    """
    return _write(Path(folder), metadata, schema, lambda work: model, probabilities, rows, reference)


def _write(
    folder: Path,
    metadata: ModelMetadata,
    schema: TrafficSchema,
    export: Callable[[Path], bytes],
    probabilities: Callable[[Floats], Floats],
    rows: TrafficSet,
    reference: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    native: Callable[[Path], None] | None = None,
) -> Bundle:
    """What every way of making a bundle ends in.

    Args:
        export: gives the graph; may write into the folder that it is handed, which is empty and goes away.
        probabilities: what the graph has to agree with.
        native: writes the framework's own artefact into a folder.
    """
    metadata = _completed(metadata, schema, rows)
    x = _parity_rows(rows)
    expected = probabilities(x)
    with _partial_folder(folder) as partial:
        work = partial / "work"
        work.mkdir()
        model = export(work)
        shutil.rmtree(work)
        report, difference = parity.demand_parity(expected, Session(model, folder).run, x, folder)
        golden = _golden_rows(difference)
        files = {
            "model.onnx": model,
            "schema.json": (schema.model_dump_json(indent=2) + "\n").encode(),
            "reference.json": _json(reference, "reference"),
            "golden.npz": pack_golden(x[golden], expected[golden]),
        }
        if evaluation is not None:
            files["evaluation.json"] = _json(evaluation, "evaluation")
        for name, data in files.items():
            (partial / name).write_bytes(data)
        if native is not None:
            (partial / "native").mkdir()
            with _disk_errors(folder):
                native(partial / "native")
        _finish(partial, metadata)
        contents = read_folder(partial, unfinished=True)
        bundle = _construct(contents, _verify(contents, None))
        _rename(partial, folder)
    bundle.path = folder
    bundle.parity = report
    return bundle


def _completed(metadata: ModelMetadata, schema: TrafficSchema, rows: TrafficSet) -> ModelMetadata:
    if rows.schema.digest != schema.digest:
        raise SchemaError("the rows are of another schema than the bundle", where=rows.schema.name)
    if (metadata.input_dim, metadata.output_dim) != (schema.input_dim, schema.output_dim):
        raise SchemaError(
            f"metadata says {metadata.input_dim} features x {metadata.output_dim} classes, "
            f"the schema {schema.input_dim} x {schema.output_dim}",
            where=schema.name,
        )
    if metadata.schema_digest not in ("", schema.digest):
        raise SchemaError("metadata names another schema's digest", where=schema.name)
    changes = {"schema_digest": schema.digest, "checksum": ""}
    return ModelMetadata.model_validate(metadata.model_dump() | changes)


def _parity_rows(rows: TrafficSet) -> Floats:
    """All rows, or 5000 spread evenly and up to 20 more of every class, so that rare ones are compared too."""
    if len(rows) <= PARITY_ROWS:
        return rows.features
    chosen = [np.linspace(0, len(rows) - 1, PARITY_ROWS).astype(int)]
    chosen += [np.flatnonzero(rows.labels == label)[:20] for label in range(rows.schema.output_dim)]
    return rows.features[np.unique(np.concatenate(chosen))]


def _golden_rows(difference: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rows that agree with some room to spare (the gate tolerates a few that don't), spread evenly."""
    good = np.flatnonzero(difference <= TOLERANCE / 2)
    if not len(good):
        good = np.argsort(difference)[:1]
    return good[np.unique(np.linspace(0, len(good) - 1, min(GOLDEN_ROWS, len(good))).astype(int))]


def _json(content: dict[str, Any], what: str) -> bytes:
    try:
        return canonical(content)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"the {what} can't be written as JSON: {error}", remedy="give plain, finite figures"
        ) from None


def _finish(partial: Path, metadata: ModelMetadata) -> None:
    """Writes metadata.json with the digest of everything else."""
    path = partial / "metadata.json"
    path.write_text(metadata.to_json(), encoding="utf-8")
    contents = read_folder(partial, unfinished=True)
    digest = digest_of(contents, strict_json(contents.files["metadata.json"], path))
    path.write_text(metadata.model_copy(update={"checksum": digest}).to_json(), encoding="utf-8")


def _rename(partial: Path, folder: Path) -> None:
    """Puts the finished folder in its place, on the disk and not only in memory."""
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    if os.path.lexists(folder):
        raise _exists(folder)
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _exists(folder) from None
        raise
    _sync(folder.parent)


def _exists(folder: Path) -> VersionExistsError:
    return VersionExistsError("is there already; a bundle is never changed", where=folder, remedy="use another version")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """An empty hidden sibling of `folder`, on the same file system; gone at the end unless it was renamed.

    It is locked while its writer lives, so that whoever writes next to it later can tell what a killed process left
    behind, and remove that.
    """
    if folder.name.startswith("."):
        raise BundleError("a bundle's folder can't be hidden", where=folder)
    with writable(folder):
        if os.path.lexists(folder):
            raise _exists(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent, _PARTIAL.fullmatch)
        with Claimed(folder.parent, f".partial-{folder.name}-") as partial:
            yield partial


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Frameworks write by themselves and wrap what the operating system says in errors of their own: unwraps it.

    Raises:
        OSError: the system refused to write; `settings.writable` around this gives it its words.
    """
    try:
        yield
    except (RobustIDPSError, OSError):
        raise
    except Exception as error:
        said = f"{error} {error.__cause__} {error.__context__}"
        for number in (errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT, errno.EACCES):
            if os.strerror(number) in said or re.search(rf"\b(os error|code:|Errno) {number}\b", said):
                raise OSError(number, os.strerror(number), str(folder)) from None
        raise
