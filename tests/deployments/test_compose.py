"""What `deployments/compose.yaml` and its image promise, read from the files. Nothing here starts a container."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments"
SCHEMA = ROOT.parent / "shared" / "schemas" / "compose-spec.json"
DOCKERFILES = (DEPLOYMENTS / "Dockerfile", DEPLOYMENTS / "compose" / "objects.Dockerfile")


@pytest.fixture(scope="module")
def compose() -> dict:
    content = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
    return {key: value for key, value in content.items() if not key.startswith("x-")}


def services() -> dict[str, dict]:
    return yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())["services"]


@pytest.mark.real
def test_it_is_what_the_compose_specification_takes(compose):
    if not SCHEMA.is_file():
        if os.environ.get("REQUIRE_REAL_PARTS") == "1":
            pytest.fail(f"a real part is missing: {SCHEMA}")
        pytest.skip(f"no compose schema at {SCHEMA}")
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(compose)] == []
    beside = yaml.safe_load((DEPLOYMENTS / "compose.updates.yaml").read_text())
    assert [error.message for error in validator.iter_errors(beside)] == []
    compose["services"]["worker"]["comand"] = ["x"]  # that the schema is closed, and this test can fail
    assert not validator.is_valid(compose)


@pytest.mark.parametrize("name", services())
def test_every_service_is_confined(name):
    service = services()[name]
    uid, gid = service["user"].split(":")
    assert int(uid) > 0 and int(gid) > 0
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"] and "privileged" not in service
    assert "network_mode" not in service and "pid" not in service
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))


@pytest.mark.parametrize("name", services())
def test_every_service_has_a_health_check_or_ends_by_itself(name):
    service = services()[name]
    if service["healthcheck"].get("disable"):
        assert service["restart"] == "no"
        waiting = [s["depends_on"].get(name) for s in services().values() if name in s.get("depends_on", {})]
        assert waiting and all(w["condition"] == "service_completed_successfully" for w in waiting)
    else:
        assert service["healthcheck"]["test"][0] == "CMD" and service["restart"] == "unless-stopped"


def test_only_who_takes_updates_gets_a_way_out_and_only_if_asked():
    beside = yaml.safe_load((DEPLOYMENTS / "compose.updates.yaml").read_text())
    assert list(beside["services"]) == ["worker"] and services()["worker"]["networks"] == ["inside"]
    assert beside["services"]["worker"]["networks"] == ["inside", "outward"]
    assert set(beside["services"]["worker"]) == {"environment", "networks"}


@pytest.mark.parametrize("name", services())
def test_only_loopback_is_published_and_only_what_people_look_at(name):
    ports = services()[name].get("ports", [])
    assert all(str(port).startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in ("mlflow", "prefect", "reports"))
    assert ("published" in services()[name]["networks"]) == bool(ports)


def test_data_is_on_a_network_without_a_way_out(compose):
    assert compose["networks"]["inside"] == {"internal": True}
    assert all("inside" in service["networks"] for service in compose["services"].values())


def test_no_secret_stands_in_the_file_and_each_is_a_file_that_make_secrets_writes(compose, tmp_path):
    subprocess.run([DEPLOYMENTS / "compose" / "make-secrets", tmp_path / "secrets"], check=True, capture_output=True)
    made = {p.name for p in (tmp_path / "secrets").iterdir()}
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} == made
    for name, service in compose["services"].items():
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH|KEY|DATABASE", key):
                assert key.endswith("_FILE"), f"{name}: {key}"
                secret = str(value).removeprefix("/run/secrets/")
                assert secret in service["secrets"], f"{name}: {key} names a secret that it isn't given"
        assert not re.search(r"://[^/\s]*:[^/\s]*@", json.dumps(service))


def test_secrets_are_fresh_private_and_never_written_over(tmp_path):
    command = DEPLOYMENTS / "compose" / "make-secrets"
    for name in ("one", "two"):
        subprocess.run([command, tmp_path / name], check=True, capture_output=True)
    one, two = ({p.name: p.read_text() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert all(len(one[name]) >= 20 and one[name] != two[name] for name in one)
    assert (tmp_path / "one").stat().st_mode & 0o077 == 0
    assert one["state_db_password"] in one["state_database_url"]
    assert json.loads(one["s3_config"])["identities"][0]["credentials"][0]["secretKey"] == one["s3_secret_key"]
    from cryptography.fernet import Fernet

    Fernet(one["mlflow_webhook_key"])
    again = subprocess.run([command, tmp_path / "one"], capture_output=True, text=True)
    assert again.returncode == 1 and "never written over" in again.stderr
    assert {p.name: p.read_text() for p in (tmp_path / "one").iterdir()} == one
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}


def test_with_secrets_hands_files_on_as_variables_and_refuses_one_that_is_missing(tmp_path):
    (tmp_path / "url").write_text("postgresql://u:p w$(id)@h/d")
    script = DEPLOYMENTS / "compose" / "with-secrets"
    show = [script, sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"]
    base = {"PATH": os.environ["PATH"], "SECRETS_FOLDER": str(tmp_path), "OTHER_FILE": "/etc/passwd"}
    done = subprocess.run(show, env=base | {"X_URL_FILE": f"{tmp_path}/url"}, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["X_URL"] == "postgresql://u:p w$(id)@h/d" and "X_URL_FILE" not in found
    assert "OTHER" not in found
    missing = subprocess.run(show, env=base | {"X_URL_FILE": f"{tmp_path}/none"}, capture_output=True, text=True)
    assert missing.returncode == 1 and "is missing or empty" in missing.stderr


def test_nobody_is_allowed_anything_in_mlflow_by_default():
    script = (DEPLOYMENTS / "compose" / "mlflow-server").read_text()
    assert "default_permission = NO_PERMISSIONS" in script and "--app-name robustidps-auth" in script
    assert "password =" not in script


IMAGES = [s["image"] for s in services().values() if "build" not in s] + [
    line.split()[1] for file in DOCKERFILES for line in file.read_text().splitlines() if line.startswith("FROM ")
]


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_pinned_to_a_release(image):
    name, _, tag = image.partition(":")
    assert re.match(r"\d+\.\d+", tag), f"{name} is not pinned"


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_the_image_runs_without_root_and_without_build_tools(file):
    last = file.read_text().rsplit("\nFROM ", 1)[-1]
    assert re.search(r"^USER \d{5}:\d{5}$", last, re.M)
    assert not re.search(r"apt-get|gcc|build-essential|pip install", last)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_the_linter_of_dockerfiles_finds_nothing(file, tmp_path):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && sudo pip install x\n")
    assert subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True).returncode == 1


def test_nothing_but_the_sources_reaches_the_image():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines and not any(
        "secret" in line for line in lines if line.startswith("!") and "with-secrets" not in line
    )
    copied = re.findall(
        r"^COPY (?!--from)(?:--\S+ )?(.+)$", (DEPLOYMENTS / "Dockerfile").read_text().replace("\\\n", ""), re.M
    )
    named = {word for words in copied for word in words.split()[:-1]} - {"."}
    assert all(f"!{word}" in lines for word in named), named
