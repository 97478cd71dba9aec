"""A bundle is written whole or not at all, and says the same as the model it was made from."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from robustidps.bundle import bundle_digest, open_bundle, write_bundle
from robustidps.calibration import softmax
from robustidps.errors import (
    BundleError,
    NotFoundError,
    ParityError,
    SchemaError,
    StorageError,
    VersionExistsError,
)
from robustidps.evaluation.reference import profile
from robustidps.preprocessing import Preprocessing
from robustidps.registry.metadata import ModelMetadata
from robustidps.testing.linear import TrainedLinear, toy_bundle
from robustidps.testing.traffic import TOY, toy_traffic

ROWS = toy_traffic(400, seed=5)


def parts(**changes):
    """Arguments of `write_bundle` for a linear model with random weights."""
    rng = np.random.default_rng(1)
    what = {"name": "toy", "version": "1.0.0", "model_type": "linear", "framework": "numpy"}
    weights = rng.normal(0, 1, (TOY.standardised_dim, 4)).astype(np.float32)
    made = {
        "metadata": ModelMetadata(**what, input_dim=8, output_dim=4, created_at="2026-01-06T00:00:00Z"),
        "schema": TOY,
        "trained": TrainedLinear(weights, np.zeros(4, np.float32)),
        "preprocessing": Preprocessing.fit(TOY, ROWS.features),
        "temperature": 1.7,
        "rows": ROWS,
        "reference": profile(ROWS),
    }
    return made | changes


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("bundle") / "v1")


def test_a_bundle_says_what_the_native_model_says(tmp_path):
    given = parts()
    bundle = write_bundle(tmp_path / "b", **given)
    logits = given["trained"].logits(given["preprocessing"].transform(ROWS.features))
    np.testing.assert_allclose(bundle.probabilities(ROWS.features), softmax(logits, 1.7), atol=1e-6)
    assert bundle.parity.agrees and bundle.parity.rows == 400


def test_an_opened_bundle_equals_the_written_one(written):
    with open_bundle(written.path, expected_digest=written.digest) as opened:
        assert opened.metadata == written.metadata
        assert opened.metadata.checksum == opened.digest == bundle_digest(written.path)
        assert opened.metadata.schema_digest == TOY.digest and opened.metadata.temperature == 1.3
        assert opened.schema == TOY and opened.reference == written.reference and opened.evaluation is None
        assert opened.reference["rows"] == 600
        assert opened.thresholds == {"Flood": 0.5, "Scan": 0.5, "Never-Seen": 0.5}
        x = ROWS.features
        np.testing.assert_array_equal(opened.probabilities(x), written.probabilities(x))


def test_the_folder_holds_exactly_the_files_of_the_contract(tmp_path):
    write_bundle(tmp_path / "b", **parts(evaluation={"accuracy": 0.9}))
    files = sorted(str(p.relative_to(tmp_path / "b")) for p in (tmp_path / "b").rglob("*") if p.is_file())
    assert files == [
        "evaluation.json", "golden.npz", "metadata.json", "model.onnx", "native/linear.json", "reference.json",
        "schema.json",
    ]  # fmt: skip
    assert open_bundle(tmp_path / "b").evaluation == {"accuracy": 0.9}
    assert leftovers(tmp_path) == ["b"]


def test_the_same_parts_give_the_same_digest(tmp_path):
    one, two = write_bundle(tmp_path / "one", **parts()), write_bundle(tmp_path / "two", **parts())
    other = write_bundle(tmp_path / "other", **parts(temperature=1.8))
    assert one.digest == two.digest != other.digest


def test_a_copy_is_the_same_bundle(written, tmp_path):
    shutil.copytree(written.path, tmp_path / "copy")
    assert open_bundle(tmp_path / "copy").digest == written.digest


def test_another_bundle_than_the_expected_one_is_refused(written):
    with pytest.raises(BundleError, match="another bundle"):
        open_bundle(written.path, expected_digest="0" * 64)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path):
    with pytest.raises(NotFoundError):
        open_bundle(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="isn't a bundle's folder"):
        open_bundle(tmp_path / "file")


# --- asking it


def test_probabilities_do_not_depend_on_the_batch(written):
    x = toy_traffic(1000, seed=9).features
    whole = written.probabilities(x)
    assert whole.dtype == np.float32 and whole.shape == (1000, 4)
    for batch in (1, 7, 333):
        np.testing.assert_allclose(written.probabilities(x, batch=batch), whole, atol=1e-6)


def test_no_rows_give_no_probabilities(written):
    assert written.probabilities(np.empty((0, 8))).shape == (0, 4)


def test_a_missing_value_follows_the_rule_of_its_feature(written):
    x = ROWS.features[:3].copy()
    x[1, 1] = np.nan  # bytes: the median stands in
    assert np.isfinite(written.probabilities(x)).all()
    x[2, 5] = np.nan  # error_rate: refused
    with pytest.raises(SchemaError, match="missing") as caught:
        written.probabilities(x)
    assert caught.value.where == "row 2, column 'error_rate'"


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_an_infinity_is_refused_with_its_row_and_column(written, value):
    x = ROWS.features[:5].astype(np.float64)
    x[4, 0] = value
    with np.errstate(over="ignore"), pytest.raises(SchemaError, match="infinite") as caught:
        written.probabilities(x)
    assert caught.value.where == "row 4, column 'duration'"


@pytest.mark.parametrize("shape", [(3, 7), (3, 9), (8,), (1, 3, 8)])
def test_rows_of_another_width_are_refused(written, shape):
    with pytest.raises(SchemaError, match="expected"):
        written.probabilities(np.zeros(shape))


def test_several_threads_may_ask_at_once(written):
    x = toy_traffic(500, seed=2).features
    expected = written.probabilities(x)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: written.probabilities(x, batch=64), range(16)):
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_closed_bundle_answers_no_more(written):
    with open_bundle(written.path) as bundle:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        bundle.probabilities(ROWS.features)


# --- what is not written


class Wrong(TrainedLinear):
    """Exports other weights than it computes with."""

    def export_onnx(self, path):
        TrainedLinear(self.weights * np.float32(1.01), self.biases).export_onnx(path)


def test_a_bundle_whose_onnx_disagrees_is_never_written(tmp_path):
    given = parts()
    wrong = Wrong(given["trained"].weights, given["trained"].biases)
    with pytest.raises(ParityError, match=r"disagree: .* the worst is row \d+"):
        write_bundle(tmp_path / "b", **given | {"trained": wrong})
    assert leftovers(tmp_path) == []


class Pickling(TrainedLinear):
    def save_native(self, folder):
        (folder / "model.pt").write_bytes(b"\x80\x04K\x01.")


class Untidy(TrainedLinear):
    def save_native(self, folder):
        (folder.parent / "notes.md").write_text("x")


class Failing(TrainedLinear):
    def save_native(self, folder):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind, error", [(Pickling, BundleError), (Untidy, BundleError), (Failing, ZeroDivisionError)])
def test_a_family_that_saves_what_it_may_not_or_fails_leaves_nothing(tmp_path, kind, error):
    given = parts()
    with pytest.raises(error):
        write_bundle(tmp_path / "b", **given | {"trained": kind(given["trained"].weights, given["trained"].biases)})
    assert leftovers(tmp_path) == []


def test_an_existing_bundle_is_never_overwritten(tmp_path):
    before = write_bundle(tmp_path / "b", **parts()).digest
    with pytest.raises(VersionExistsError):
        write_bundle(tmp_path / "b", **parts(temperature=3.0))
    assert bundle_digest(tmp_path / "b") == before and leftovers(tmp_path) == ["b"]


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"rows": ROWS.select(slice(0, 0))}, ParityError),
        ({"reference": profile(ROWS) | {"mean": float("nan")}}, BundleError),
        ({"reference": profile(ROWS) | {"when": object()}}, BundleError),
        ({"reference": {}}, BundleError),
        ({"reference": profile(ROWS) | {"rows": 399}}, BundleError),
        ({"temperature": 0.0}, ValueError),
        ({"metadata": parts()["metadata"].model_copy(update={"input_dim": 9})}, SchemaError),
        ({"metadata": parts()["metadata"].model_copy(update={"schema_digest": "0" * 64})}, SchemaError),
        ({"metadata": parts()["metadata"].model_copy(update={"thresholds": {"Benign": 0.5}})}, BundleError),
        ({"schema": TOY.model_copy(update={"classes": ("Benign", "A", "B", "C")})}, SchemaError),
    ],
    ids=["no rows", "NaN", "object", "none", "sum", "temperature", "width", "digest", "threshold", "schema"],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, changes, error):
    with pytest.raises(error):
        write_bundle(tmp_path / "b", **parts(**changes))
    assert leftovers(tmp_path) == []


# --- disks and kills


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Error while serializing: I/O error: File too large (os error 27)", "file size limit"),  # safetensors
        (
            "[LightGBM] [Fatal] Model file model.txt is not available for writes: No space left on device",
            "disk is full",
        ),
        ("Os { code: 30, kind: ReadOnlyFilesystem }", "read-only"),
    ],
)
@pytest.mark.parametrize("method", ["export_onnx", "save_native"])
def test_a_full_disk_in_the_words_of_a_framework_is_a_storage_error(tmp_path, monkeypatch, method, said, words):
    def fail(self, path):
        raise RuntimeError(said)

    monkeypatch.setattr(TrainedLinear, method, fail)
    with pytest.raises(StorageError, match=words):
        write_bundle(tmp_path / "b", **parts())
    assert leftovers(tmp_path) == []


def run(code: str, *args: object, **popen) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **popen)


def test_a_disk_that_is_full_at_any_point_leaves_nothing(tmp_path):
    """The limit on file size lets ever more of the files through; each time one of them can't be written to its end."""
    code = """
        import resource, sys
        from pathlib import Path
        from robustidps.errors import StorageError
        from robustidps.testing.linear import toy_bundle
        import onnx, onnxruntime
        place = Path(sys.argv[1])
        for limit in (0, 500, 1500, 2500, 5000, 12000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                toy_bundle(place / "b")
            except StorageError as error:
                assert "limit" in error.problem and error.remedy, error
                print(limit, "refused", [p.name for p in place.iterdir()])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(toy_bundle(place / "b").digest)
    """
    done = run(code, tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) >= 5 and all(line.endswith("refused []") for line in lines[:-1])
    assert open_bundle(tmp_path / "b").digest == lines[-1]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 KiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() or not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=32k", "tmpfs", place]).returncode:
        pytest.skip("a file system can't be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_file_system_is_a_storage_error(small_disk):
    (small_disk / "other").write_bytes(b"x" * 24_000)
    with pytest.raises(StorageError, match="the disk is full"):
        toy_bundle(small_disk / "b")
    assert leftovers(small_disk) == ["other"]


def test_a_read_only_folder_is_a_storage_error(tmp_path, request):
    if os.geteuid():
        place = tmp_path / "closed"
        place.mkdir(mode=0o555)
    else:
        place = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    with pytest.raises(StorageError, match=r"read-only|permission"):
        toy_bundle(place / "b")


KILLED = """
    import sys, time
    from pathlib import Path
    from robustidps import bundle
    from robustidps.testing import linear
    place, step = Path(sys.argv[1]), sys.argv[2]

    def stop(*args, **kwargs):
        print("there", flush=True)
        time.sleep(60)

    if step == "export":
        linear.TrainedLinear.export_onnx = stop
    elif step == "native":
        linear.TrainedLinear.save_native = stop
    elif step == "digest":
        bundle._finish = stop
    elif step == "rename":
        bundle._rename = stop
    elif step == "race":
        rename = bundle._rename
        def wait(*args):
            print("there", flush=True)
            sys.stdin.readline()
            rename(*args)
        bundle._rename = wait
    linear.toy_bundle(place / "b")
"""


@pytest.fixture
def stopped_writer(tmp_path):
    """Starts writing a bundle in a process of its own, which waits for its end at the step that is asked for."""
    running = []

    def start(step):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), step]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, **pipes, text=True))
        assert running[-1].stdout.readline() == "there\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("step", ["export", "native", "digest", "rename"])
def test_a_killed_writer_leaves_no_bundle_and_the_next_cleans_up(tmp_path, stopped_writer, step):
    writer = stopped_writer(step)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".partial-b-")
    with pytest.raises(BundleError, match="never finished"):
        open_bundle(partial)
    toy_bundle(tmp_path / "b")
    assert leftovers(tmp_path) == ["b"]


def test_what_a_living_writer_has_begun_is_left_alone(tmp_path, stopped_writer):
    stopped_writer("native")
    toy_bundle(tmp_path / "another")
    names = leftovers(tmp_path)
    assert names[0].startswith(".partial-b-") and names[1:] == ["another"]


def test_of_two_writers_of_one_version_the_slower_is_told(tmp_path, stopped_writer):
    slower = stopped_writer("race")  # it has looked, found nothing there, and is about to rename
    digest = toy_bundle(tmp_path / "b", seed=1).digest
    _, said = slower.communicate("go on\n", timeout=60)
    assert slower.returncode == 1 and "VersionExistsError" in said
    assert open_bundle(tmp_path / "b").digest == digest and leftovers(tmp_path) == ["b"]


def test_the_example_in_the_docs_runs(capsys):
    text = (Path(__file__).parents[1] / "docs" / "bundle.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[1].split("```")[0]
    exec(compile(example, "docs/bundle.md", "exec"), {})  # noqa: S102 - our own page
    assert "share_within=1.0" in capsys.readouterr().out
