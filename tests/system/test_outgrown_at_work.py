"""The whole local system by settings alone on PostgreSQL (our state, MLflow, Prefect) and S3: a run finishes, and after
`down` and `up` it is still in Prefect's history."""

from __future__ import annotations

import json

import psutil
import pytest
import yaml

from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, make_settings
from robustidps.system import record as records
from robustidps.system.processes import end_marked, marked
from tests.conftest import missing_part
from tests.system.local_system import asked, command, ended, ran, register_toy, write_toy_rules

pytestmark = [pytest.mark.timeout(900), pytest.mark.long, pytest.mark.postgresql]
PLANTED = "planted-secret"


@pytest.fixture
def settings(s3, database, has_trigrams, tmp_path):
    """`settings.yaml` in an otherwise empty home, as docs/scaling.md has it."""
    if not has_trigrams:
        missing_part("this PostgreSQL has no pg_trgm, which Prefect needs: name another by ROBUSTIDPS_TEST_PG_CTL")
    home = tmp_path / "home"
    home.mkdir()
    addresses = {
        key: database().replace(":@", f":{PLANTED}@")
        for key in ("database_url", "mlflow_tracking_uri", "prefect_database_url")
    }
    # As providers print it, in libpq's words; asyncpg has others.
    addresses["prefect_database_url"] += "&sslmode=prefer"
    assert all(PLANTED in address for address in addresses.values())
    file = home / "settings.yaml"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(addresses | {"artifacts_uri": "s3://robustidps/at-work"}))
    write_toy_rules(home)
    settings = make_settings(home=home)
    yield settings
    command(settings, "down")
    if record := records.read(settings):
        end_marked(record.mark)


def said_or_shown(settings: Settings, mark: str) -> str:
    """All command lines of what is up, and all that it has logged and recorded."""
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in marked(mark)]
    assert len(lines) >= 5
    files = [f for folder in ("logs", "run", "prefect") for f in (settings.home / folder).rglob("*") if f.is_file()]
    return "\n".join([*lines, *(f.read_bytes().decode(errors="replace") for f in files)])


def test_by_settings_alone_a_run_finishes_and_is_still_known_after_down_and_up(settings, s3):
    ran(settings, "registry", "prepare")
    ran(settings, "up", "--detach")
    before = records.read(settings)
    name = register_toy(settings)
    deployment = asked(settings, "deployments/name/promote/promote", method="GET")
    parameters = {"name": name, "version": "1.0.0", "stage": "Staging", "rules": "toy"}
    run = asked(settings, f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]
    found = ended(settings, {"id": {"any_": [run]}}, 300)
    assert found["state_type"] == "COMPLETED", found["state"]["message"]
    judged = [d for d in ModelRegistry(settings=settings).history(name) if d.action == "refuse"]
    assert [(d.version, d.to_stage) for d in judged] == [("1.0.0", "Staging")]
    bundle = s3.list_objects_v2(Bucket="robustidps", Prefix="at-work/toy/")["Contents"]
    assert any(entry["Key"].endswith("/bundle/model.onnx") for entry in bundle)
    assert PLANTED not in said_or_shown(settings, before.mark) + str(asked(settings, f"flow_runs/{run}", method="GET"))
    assert PLANTED not in ran(settings, "status") + ran(settings, "status", "--json") + ran(settings, "doctor")
    saved = json.loads(ran(settings, "backup", str(settings.home / "saved.tar.gz"), "--json"))
    assert any("Prefect's runs" in text for text in saved["left_out"])
    nothing_local = [file.name for file in settings.home.rglob("*.db")]
    assert nothing_local == [] and not (settings.home / "artifacts").exists()

    ran(settings, "down")
    assert marked(before.mark) == []
    ran(settings, "up", "--detach")
    assert records.read(settings).ports == before.ports
    again = asked(settings, f"flow_runs/{run}", method="GET")
    assert (again["state"]["type"], again["end_time"]) == ("COMPLETED", found["end_time"])
    assert ModelRegistry(settings=settings).verify(artifacts=True).ok
