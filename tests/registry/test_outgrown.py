"""An installation by settings alone on PostgreSQL and S3: versions go there, and a second home works with them."""

from __future__ import annotations

import importlib
import shutil
import socket
import sys
from pathlib import Path

import pytest

from robustidps.backup import restore, save
from robustidps.doctor import examine
from robustidps.errors import (
    BundleError,
    ConfigError,
    MissingExtraError,
    RefusedError,
    RegistryUnavailableError,
)
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, make_settings
from robustidps.testing.registry import APPROVE

pytestmark = [pytest.mark.real, pytest.mark.postgresql]
BUCKET = "robustidps"


@pytest.fixture(scope="module")
def outgrown(s3, postgresql, tmp_path_factory) -> Settings:
    """Settings as an environment would give them: two databases, a bucket, an empty home."""
    for name in ("outgrown_state", "outgrown_mlflow"):
        postgresql.psql(f"CREATE DATABASE {name};")
    return make_settings(
        home=tmp_path_factory.mktemp("outgrown") / "home",
        database_url=postgresql.get_uri(database="outgrown_state"),
        mlflow_tracking_uri=postgresql.get_uri(database="outgrown_mlflow"),
        artifacts_uri=f"s3://{BUCKET}/models/",
    )


@pytest.fixture(scope="module")
def registry(outgrown, bundles) -> ModelRegistry:
    registry = ModelRegistry(settings=outgrown)
    for version in ("1.0.0", "1.1.0"):
        registry.register_model("toy", version, bundles[version])
    return registry


def second_home(registry: ModelRegistry, folder: Path) -> ModelRegistry:
    """Another machine: nothing but the settings and the installation's key."""
    shutil.copytree(registry.settings.home / "keys", folder / "keys")
    return ModelRegistry(settings=registry.settings.model_copy(update={"home": folder}))


def keys_of(s3) -> list[str]:
    return [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_artefacts_land_in_the_bucket_and_none_under_home(registry, s3):
    run_id = registry.version("toy", "1.0.0").run_id
    assert f"models/toy/{run_id}/artifacts/bundle/model.onnx" in keys_of(s3)
    assert not (registry.settings.home / "artifacts").exists() and not (registry.settings.home / "mlflow.db").exists()


def test_a_second_home_promotes_loads_from_the_bucket_rolls_back_and_verifies(registry, tmp_path):
    other = second_home(registry, tmp_path / "second")
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    other.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    assert registry.load_model("toy", "production").version == "1.1.0"
    third = second_home(registry, tmp_path / "third")
    assert not (third.settings.home / "cache").exists()
    assert third.load_model("toy", "production").digest == registry.version("toy", "1.1.0").digest
    third.repair()  # keeps what a rollback needs
    assert third.rollback("toy").version == "1.0.0"
    third.ensure_projected()
    aliases = third.tracking.aliases("toy", ("production", "previous"))
    assert aliases == {"production": str(registry.version("toy", "1.0.0").mlflow_version)}
    assert registry.verify(artifacts=True).records == 5


def test_an_object_edited_in_the_bucket_is_refused(registry, s3, tmp_path):
    run_id = registry.version("toy", "1.1.0").run_id
    key = f"models/toy/{run_id}/artifacts/bundle/reference.json"
    before = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    s3.put_object(Bucket=BUCKET, Key=key, Body=before.replace(b"600", b"601"))
    try:
        with pytest.raises(BundleError, match="edited"):
            second_home(registry, tmp_path / "second").load_model("toy", "1.1.0")
    finally:
        s3.put_object(Bucket=BUCKET, Key=key, Body=before)


@pytest.fixture(scope="module")
def moved(bundles, s3, postgresql, mlflow_template, tmp_path_factory):
    """A small home, and the settings of a large one that its backup was restored into."""
    folder = tmp_path_factory.mktemp("moved")
    (folder / "small").mkdir()
    shutil.copy(mlflow_template, folder / "small" / "mlflow.db")
    small = ModelRegistry(settings=Settings(home=folder / "small"))
    for version in ("1.0.0", "1.1.0"):
        small.register_model("toy", version, bundles[version], history=[{"loss": 0.5}])
        small.transition("toy", version, "Production", verdict=APPROVE)
    archive = save(small, folder / "backup.tar.gz").path
    for name in ("moved_state", "moved_mlflow"):
        postgresql.psql(f"CREATE DATABASE {name};")
    settings = Settings(
        home=folder / "large",
        database_url=postgresql.get_uri(database="moved_state"),
        mlflow_tracking_uri=postgresql.get_uri(database="moved_mlflow"),
        artifacts_uri=f"s3://{BUCKET}/moved",
    )
    restore(archive, settings)
    shutil.rmtree(folder / "small")
    return settings, archive


def test_a_small_home_moves_to_postgresql_and_s3_by_backup_and_restore(moved, s3, bundles, tmp_path):
    settings, _ = moved
    registry = ModelRegistry(settings=settings)
    assert registry.verify(artifacts=True).records == 5
    run_id = registry.version("toy", "1.0.0").run_id
    assert f"moved/toy/{run_id}/artifacts/bundle/model.onnx" in keys_of(s3)
    assert [m.value for m in registry.tracking.client.get_metric_history(run_id, "loss")] == [0.5]
    other = second_home(registry, tmp_path / "second")
    assert other.load_model("toy", "production").version == "1.1.0"  # fetched from the bucket
    assert registry.rollback("toy").version == "1.0.0"
    registry.ensure_projected()
    assert registry.register_model("toy", "1.2.0", bundles["1.2.0"]).mlflow_version == 3
    assert registry.tracking.experiment("another") not in ("0", registry.tracking.experiment("toy"))
    registry.verify()


def test_a_large_installation_that_holds_something_is_not_restored_into(moved, tmp_path):
    settings, archive = moved
    with pytest.raises(RefusedError, match="not empty"):
        restore(archive, settings.model_copy(update={"home": tmp_path / "fresh"}))


@pytest.mark.long
def test_a_large_installation_is_saved_and_restored_into_a_small_home(moved, mlflow_template, tmp_path):
    settings, _ = moved
    archive = save(ModelRegistry(settings=settings), tmp_path / "large.tar.gz").path
    (tmp_path / "home").mkdir()
    shutil.copy(mlflow_template, tmp_path / "home" / "mlflow.db")
    small = Settings(home=tmp_path / "home")
    assert restore(archive, small).manifest.missing == []
    assert ModelRegistry(settings=small).verify(artifacts=True).ok


def found(settings: Settings, what: str):
    return next(f for f in examine(settings) if f.what == what)


def test_the_doctor_sees_bucket_and_databases(registry, outgrown, postgresql, has_trigrams):
    settings = outgrown.model_copy(update={"prefect_database_url": postgresql.get_uri(database="outgrown_state")})
    findings = {f.what: f for f in examine(settings)}
    for what in ("state store", "decision ledger", "MLflow", "artefacts"):
        assert findings[what].status == "ok", findings[what]
    prefect = findings["Prefect's database"]
    assert prefect.status == "ok" if has_trigrams else "pg_trgm" in prefect.text


def test_a_bucket_that_is_not_there_is_named_and_nothing_is_entered(outgrown, bundles, mlflow_template, tmp_path):
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    changed = {"home": tmp_path, "artifacts_uri": "s3://not-there/x", "database_url": None}
    settings = outgrown.model_copy(update={**changed, "mlflow_tracking_uri": None})
    assert "make the bucket" in found(settings, "artefacts").remedy
    registry = ModelRegistry(settings=settings)
    with pytest.raises(RegistryUnavailableError, match="make the bucket"):
        registry.register_model("toy", "1.0.0", bundles["1.0.0"])
    assert registry.history() == [] and registry.models()[0].newest is None


def test_missing_credentials_a_silent_endpoint_and_a_missing_extra_are_each_told(outgrown, monkeypatch, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        assert "MLFLOW_S3_ENDPOINT_URL" in found(outgrown, "artefacts").remedy
    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        assert "AWS_ACCESS_KEY_ID" in found(outgrown, "artefacts").remedy
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "boto3", None)
        assert "robustidps[s3]" in found(outgrown, "artefacts").remedy
        with pytest.raises(MissingExtraError, match="s3"), ModelRegistry(settings=outgrown).tracking.errors():
            importlib.import_module("boto3")  # as MLflow does it when it first meets an s3:// address


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/x", "https://bucket/x", "s3://", "bucket"])
def test_an_artifacts_uri_that_is_none_or_holds_a_secret_is_refused(uri, tmp_path):
    with pytest.raises(ConfigError, match="artifacts_uri") as caught:
        make_settings(home=tmp_path, artifacts_uri=uri)
    assert "secret" not in str(caught.value)
