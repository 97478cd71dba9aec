"""The registry on a real MLflow: what its UI shows, what is fetched from it, and what happens when it is away."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from robustidps.errors import BundleError, NotFoundError, RegistryUnavailableError
from robustidps.registry import picture
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.registry import APPROVE


@pytest.fixture
def registered(real, bundles) -> ModelRegistry:
    for version in ("1.0.0", "1.1.0"):
        real.register_model(
            "toy", version, bundles[version], history=[{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.25}],
            params={"solver": {"steps": 8}}, command="robustidps train toy",
        )  # fmt: skip
    return real


def aliases(registry: ModelRegistry) -> dict[str, str]:
    return {k: str(v) for k, v in registry.tracking.client.get_registered_model("toy").aliases.items()}


def test_a_version_shows_number_digest_stage_run_curves_and_the_command_that_repeats_it(registered):
    client = registered.tracking.client
    shown = client.get_model_version("toy", "1")
    record = registered.version("toy", "1.0.0")
    assert shown.tags["robustidps.version"] == "1.0.0" and shown.tags["robustidps.digest"] == record.digest
    assert shown.source == f"runs:/{record.run_id}/bundle"
    run = client.get_run(record.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["solver.steps"] == "8" and run.data.tags["robustidps.repeat"] == "robustidps train toy"
    curve = [(m.step, m.value) for m in client.get_metric_history(record.run_id, "loss")]
    assert curve == [(1, 0.5), (2, 0.25)]
    assert {f.path for f in client.list_artifacts(record.run_id, "bundle")} >= {
        "bundle/model.onnx",
        "bundle/metadata.json",
    }
    assert not [f for f in client.list_artifacts(record.run_id, "bundle") if f.path.endswith("MLmodel")]


def test_artefacts_lie_under_home(registered, tmp_path, monkeypatch):
    run = registered.tracking.client.get_run(registered.version("toy", "1.0.0").run_id)
    assert run.info.artifact_uri.startswith((registered.settings.home / "artifacts").as_uri())


def test_an_evaluation_lands_on_the_run_and_its_headlines_on_the_version(registered, tmp_path):
    from robustidps.evaluation.report import ClassFigures, Evaluation, Interval

    evaluation = Evaluation(
        model="toy", version="1.0.0", bundle_digest="ab" * 32, dataset="held-out", data_digest="cd" * 32, rows=100,
        time_from=None, time_to=None, confusion=[[1]], figures={"stability": 0.98}, blocks="day", n_blocks=5,
        classes={"DDoS-TCP_Flood": ClassFigures(precision=0.9, recall=Interval(value=0.8), f1=0.85, support=10)},
        headline={"accuracy": Interval(value=0.978, low=0.974, high=0.981)}, resamples=10, seed=0,
    )  # fmt: skip
    picture = tmp_path / "confusion.png"
    picture.write_bytes(b"png")
    began = time.perf_counter()
    registered.log_evaluation("toy", "1.0.0", evaluation, [picture], {"share": 0.1}, drift_share=0.1)
    assert time.perf_counter() - began < 2.0
    record = registered.version("toy", "1.0.0")
    client = registered.tracking.client
    metrics = client.get_run(record.run_id).data.metrics
    assert metrics["held_out/accuracy"] == 0.978 and metrics["held_out/recall.DDoS-TCP_Flood"] == 0.8
    shown = client.get_model_version("toy", "1")
    assert shown.tags["accuracy"] == "0.9780 [0.9740, 0.9810]"
    assert "| accuracy | 0.9780 [0.9740, 0.9810] |" in shown.description
    page = f"#/experiments/{client.get_run(record.run_id).info.experiment_id}/runs/{record.run_id}"
    assert f"({page}/artifacts/evaluation/evaluation.json)" in shown.description
    assert "`cdcdcdcdcdcd`" in shown.description
    client.update_model_version("toy", "1", description=f"mine\n\n{shown.description}")
    registered.log_evaluation("toy", "1.0.0", evaluation, [picture])
    again = client.get_model_version("toy", "1").description
    assert again.startswith("mine") and again.count("| accuracy |") == 1
    files = {f.path for f in client.list_artifacts(record.run_id, "evaluation")}
    assert files == {"evaluation/confusion.png", "evaluation/evaluation.json"}


def test_aliases_follow_and_a_persons_move_is_put_back_by_repair(registered):
    client = registered.tracking.client
    for version in ("1.0.0", "1.1.0"):
        registered.transition("toy", version, "Production", verdict=APPROVE)
    assert aliases(registered) == {"production": "2", "previous": "1"}
    client.set_registered_model_alias("toy", "production", "1")
    client.set_registered_model_alias("toy", "staging", "1")
    assert len(registered.repair()) == 2
    assert aliases(registered) == {"production": "2", "previous": "1"}
    assert [client.get_model_version("toy", v).tags["robustidps.stage"] for v in "12"] == ["Archived", "Production"]


def test_a_bundle_comes_back_from_mlflow_as_it_was_or_not_at_all(registered):
    record = registered.version("toy", "1.0.0")
    shutil.rmtree(registered.cache.path(record.digest))
    assert registered.load_model("toy", "1.0.0").digest == record.digest
    shutil.rmtree(registered.cache.path(record.digest))
    (stored,) = (registered.settings.home / "artifacts").glob(f"**/{record.run_id}/artifacts/bundle/reference.json")
    stored.write_text(stored.read_text().replace("600", "601"))
    with pytest.raises(BundleError, match="edited"):
        registered.load_model("toy", "1.0.0")
    assert any("edited" in str(p) for p in registered.check(artifacts=True).problems)


def test_a_version_whose_artefacts_were_deleted_in_mlflow_is_a_clear_error(registered):
    record = registered.version("toy", "1.0.0")
    shutil.rmtree(registered.cache.path(record.digest))
    (stored,) = (registered.settings.home / "artifacts").glob(f"**/{record.run_id}/artifacts/bundle")
    shutil.rmtree(stored)
    with pytest.raises(NotFoundError, match=r"toy 1\.0\.0 .*no longer in MLflow"):
        registered.load_model("toy", "1.0.0")


def test_a_training_run_is_marked_failed_when_the_training_fails(real):
    with pytest.raises(ZeroDivisionError), real.training_run("toy", "1.0.0", repeat="x", parameters={"a": 1}) as run:
        run.epoch(1, {"loss": 1.0})
        raise ZeroDivisionError
    seen = real.tracking.client.get_run(run.run_id)
    assert seen.info.status == "FAILED" and seen.data.metrics == {"loss": 1.0}


def test_a_bundle_goes_into_the_run_of_its_training(real, bundles):
    with real.training_run("toy", "1.0.0", data_digest="ab", repeat="robustidps train toy") as run:
        run.history([{"loss": 1.0}, {"loss": 0.5}])
    record = real.register_model("toy", "1.0.0", bundles["1.0.0"], run_id=run.run_id)
    assert record.run_id == run.run_id
    assert len(real.tracking.client.search_runs([run.experiment_id])) == 1


def unreachable(home: Path) -> ModelRegistry:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ModelRegistry(settings=Settings(home=home, mlflow_tracking_uri=f"http://user:secret@127.0.0.1:{port}"))


def test_mlflow_unreachable_is_one_clear_error_and_nothing_is_entered(tmp_path, bundles):
    registry = unreachable(tmp_path)
    began = time.perf_counter()
    with pytest.raises(RegistryUnavailableError) as caught:
        registry.register_model("toy", "1.0.0", bundles["1.0.0"])
    assert time.perf_counter() - began < 30
    assert "secret" not in str(caught.value) and "127.0.0.1" in str(caught.value)
    assert registry.models() == [] and not (tmp_path / "cache").exists()


def test_moves_stand_while_mlflow_is_unreachable_and_are_shown_once_it_is_back(registered, caplog):
    home = registered.settings.home
    registry = unreachable(home)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    assert "the move stands" in caplog.text
    assert registered.assignment("toy").production == "1.0.0"
    assert aliases(registered) == {}
    registered.ensure_projected()
    assert aliases(registered) == {"production": "1"}


def test_a_damaged_mlflow_database_is_a_clear_error(tmp_path, bundles):
    home = tmp_path / "home"
    home.mkdir()
    (home / "mlflow.db").write_bytes(b"not a database" * 200)
    with pytest.raises(RegistryUnavailableError, match=r"mlflow\.db"):
        ModelRegistry(settings=Settings(home=home)).register_model("toy", "1.0.0", bundles["1.0.0"])


def test_a_version_that_is_changed_while_all_are_listed_is_not_taken_for_deleted(real, monkeypatch):
    """MLflow lists page by page and, unless asked otherwise, the last changed first."""
    client = real.tracking.client
    client.create_registered_model("toy")
    for number in range(3):
        client.create_model_version("toy", f"runs:/{number}/bundle", f"run{number}")

    class Busy:
        def __getattr__(self, name):
            return getattr(client, name)

        def search_model_versions(self, *words, **more):
            page = client.search_model_versions(*words, **more)
            client.update_model_version("toy", "1", "changed meanwhile")
            return page

    monkeypatch.setattr(picture, "PAGE", 1)
    assert picture.read(Busy(), "toy").versions.keys() == {"1", "2", "3"}
