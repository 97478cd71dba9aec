"""From a registered version to the report, through library and tasks; and what is refused on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from robustidps.bundle import open_bundle
from robustidps.errors import BundleError, InputError, NotFoundError, SchemaError, StorageError, UnavailableError
from robustidps.loihi.exporting import export, export_version
from robustidps.loihi.report import LoihiReport
from robustidps.loihi.runner import Simulation
from robustidps.loihi.subject import encode, subject_of
from robustidps.settings import Settings
from robustidps.testing.forge import reseal
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import memory_registry
from tests.loihi.conftest import random_network

real = pytest.mark.real


def test_standardised_rows_are_what_the_bundle_itself_computes(trained) -> None:
    x = trained.subject.standardised(trained.test)
    counts = trained.subject.reference(x).counts
    assert x.dtype == np.float32 and x.shape == (600, trained.subject.network.layers[0].weights.shape[1])
    probabilities = trained.bundle.probabilities(trained.test.features)
    assert (counts.argmax(1) == probabilities.argmax(1)).mean() > 0.99


def test_the_float64_reference_is_the_float32_model_but_for_rounding(trained) -> None:
    x = trained.subject.standardised(trained.test)
    found = trained.subject.reference(x, raster=2)
    spikes = trained.subject.trained.spikes(x)
    assert (found.counts != spikes[-1]).mean() < 1e-3
    assert (found.totals[:, 0] != spikes[0].sum(axis=1)).mean() < 1e-2 and found.totals.min(axis=0).max() > 0
    assert [r.sum() for r in found.rasters] == found.totals[:2].sum(axis=0).tolist()


def test_latency_coding_is_that_of_the_family() -> None:
    torch = pytest.importorskip("torch")
    from robustidps.models.spiking import SpikingSettings, _network_class

    network = random_network("latency", steps=9)
    x = np.concatenate([np.random.default_rng(0).normal(size=(50, 6)), np.zeros((1, 6)), np.full((1, 6), 9.0)])
    x = x.astype(np.float32)
    twin = _network_class()(6, 4, SpikingSettings(hidden=(24, 20), steps=9, coding="latency"))
    with torch.no_grad():
        fired = twin.double().encode(torch.from_numpy(x).double()).numpy()
    times = encode(network, x)
    assert np.array_equal(fired > 0, np.arange(9)[:, None, None] == times)


def test_a_model_of_another_family_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="spiking networks"):
        subject_of(toy_bundle(tmp_path / "linear"))


def altered(trained, tmp_path: Path, change) -> Path:
    """A copy of the bundle, changed, with its digest made right again: a bundle that verifies and is wrong."""
    folder = tmp_path / "copy"
    shutil.copytree(trained.bundle.path, folder)
    change(folder / "native" / "model.nir")
    reseal(folder)
    return folder


def test_a_graph_that_is_not_the_models_is_refused(trained, tmp_path) -> None:
    import h5py

    def one_bit(path: Path) -> None:
        with h5py.File(path, "a") as file:
            weight = file["node/nodes/affine_1/weight"]
            weight[0, 0] = np.nextafter(weight[0, 0], 9.0)

    with pytest.raises(BundleError, match="isn't the network"):
        subject_of(open_bundle(altered(trained, tmp_path, one_bit)))


def test_a_bundle_without_a_graph_or_with_a_cut_one_is_refused(trained, tmp_path) -> None:
    with pytest.raises(BundleError, match=r"no native/model\.nir"):
        subject_of(open_bundle(altered(trained, tmp_path / "a", Path.unlink)))
    with pytest.raises(BundleError, match="can be read"):
        subject_of(open_bundle(altered(trained, tmp_path / "b", lambda p: p.write_bytes(p.read_bytes()[:-400]))))


@pytest.fixture
def registry(trained, tmp_path):
    """A registry with the small version in it, and the traffic that it learnt from where training leaves it."""
    registry = memory_registry(tmp_path / "home")
    held_out = trained.test.write(tmp_path / "test.parquet")
    facts = {"path": str(held_out), "digest": trained.test.digest, "dataset": "toy"}
    registry.register_model("toy", "1.0.0", trained.bundle.path, held_out=facts)
    (tmp_path / "home" / "traffic").mkdir(parents=True)
    trained.train.write(tmp_path / "home" / "traffic" / f"train-{trained.train.digest[:16]}.parquet")
    return registry


def test_without_an_environment_nothing_is_begun(registry, tmp_path) -> None:
    registry.settings = Settings(home=registry.settings.home, loihi_python=tmp_path / "none")
    with pytest.raises(UnavailableError, match="isn't set up"):
        export_version(registry, "toy", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@real
def test_traffic_that_is_missing_or_of_another_schema_is_refused_before_anything_is_written(
    lava, registry, trained, tmp_path
) -> None:
    from tests.flows.conftest import toy_traffic as flow64

    other = flow64(50).write(tmp_path / "other.parquet")
    with pytest.raises(SchemaError, match="the traffic is flow64"):
        export_version(registry, "toy", on=other, out=tmp_path / "out")
    next((registry.settings.home / "traffic").glob("train-*")).unlink()
    with pytest.raises(NotFoundError, match="trained on isn't here") as error:
        export_version(registry, "toy", out=tmp_path / "out")
    assert "--calibrate-on" in str(error.value.remedy) and not (tmp_path / "out").exists()


@real
def test_a_registered_version_is_simulated_compared_and_reported(lava, registry, trained, tmp_path) -> None:
    report, files = export_version(registry, "toy", rows=500, out=tmp_path / "out")
    names = ["report.md", "report.json", "model.nir", "integers.npz", "raster.png", "recall.png"]
    assert [file.name for file in files] == names and all(file.stat().st_size > 500 for file in files)
    assert LoihiReport.model_validate_json((tmp_path / "out" / "report.json").read_text()) == report
    assert (report.rows, report.rows_available, report.data_digest) == (500, 600, trained.test.digest)
    assert report.floating.unexplained == 0 and report.floating.spikes > 10_000
    assert report.emulator.spikes_differing == 0 and report.emulator.spikes > 10_000
    assert report.cost.agreement.value > 0.85 and report.cost.accuracy_fixed.value > 0.6
    assert (tmp_path / "out" / "model.nir").read_bytes() == trained.subject.nir.read_bytes()
    assert report.requirements[1].passed and report.requirements[2].passed


@real
def test_a_simulation_that_says_something_else_does_not_pass(lava, trained, tmp_path, monkeypatch) -> None:
    from robustidps.loihi import exporting

    def one_spike_more(*args, **options):
        done = simulate(*args, **options)
        counts = done.counts.copy()
        counts[3, 0] += 1
        return Simulation(counts, done.totals, done.rasters)

    simulate = exporting.simulate
    monkeypatch.setattr(exporting, "simulate", one_spike_more)
    report, _ = export(lava, trained.subject, trained.train, trained.test, dataset="toy", rows=500, out=tmp_path)
    assert not report.passed
    assert (report.floating.rows_differing, report.emulator.rows_differing) == (1, 1)
    failed = [r.name for r in report.requirements if not r.passed]
    assert "Lava in fixed point is the emulator" in failed


@real
def test_a_folder_that_cannot_be_written_to_is_an_error(lava, trained, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        export(lava, trained.subject, trained.train, trained.test, dataset="toy", rows=8, out=tmp_path / "file" / "x")


@real
def test_the_tasks_file_the_report_and_record_what_became_of_the_alias(lava, registry, trained, monkeypatch) -> None:
    from robustidps.tasks import loihi as tasks

    shown = {}
    monkeypatch.setattr(tasks, "ModelRegistry", lambda **unused: registry)
    monkeypatch.setattr(tasks, "create_markdown_artifact", lambda text, **more: shown.update(more, text=text))
    simulated = json.loads(json.dumps(tasks.simulate_on_loihi.fn("toy", None, 20)))
    tasks.file_loihi_report.fn(simulated)
    run = registry.tracking.client.runs[registry.version("toy", "1.0.0").run_id]
    assert {"loihi/report.md", "loihi/report.json", "loihi/raster.png", "loihi/model.nir"} <= set(run.data.files)
    assert shown["key"] == "toy-loihi" and "# toy 1.0.0 on Loihi" in shown["text"]
    said = tasks.ask_for_alias.fn(simulated)
    assert said["action"] == "refuse" and any("20 rows, at least 500" in reason for reason in said["reasons"])
    assert registry.history("toy")[-1].evidence["emulator"]["spikes_differing"] == 0
    with pytest.raises(NotFoundError):
        registry.resolve("toy", "loihi")
