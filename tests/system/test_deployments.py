"""What is put on a Prefect server: forms that help, pools that confine, schedules that don't overlap."""

from __future__ import annotations

import json
import re
from typing import Any

import kubernetes_validate
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from robustidps.errors import ConfigError, NameInvalidError, NotFoundError
from robustidps.flows.deployments import declared, deploy, template
from robustidps.flows.train import train
from robustidps.settings import known_configs

KINDS = ("process", "docker", "kubernetes")


def by_name() -> dict[str, Any]:
    return {entry.name: entry for entry in declared()}


@pytest.mark.parametrize("entry", declared(), ids=lambda e: e.name)
def test_every_form_has_help_and_its_parameters_are_those_that_the_deployment_gives(entry):
    schema = entry.flow().parameters.model_dump()
    for name, described in schema["properties"].items():
        assert described.get("description"), name
        assert any(key in described for key in ("type", "anyOf", "enum", "$ref", "allOf")), name
    assert set(entry.parameters) <= set(schema["properties"])
    entry.flow().validate_parameters(dict.fromkeys(schema.get("required", []), "x") | entry.parameters)


def test_a_researcher_chooses_family_and_data_set_and_may_name_a_file_of_their_own():
    form = parameter_schema(train.fn).model_dump()["properties"]  # of this home: an import may have seen another
    assert {"neural_ode", "boosted_trees", "quantum", "spiking"} <= set(form["family"]["enum"])
    known, own = form["dataset"]["anyOf"]
    assert known["enum"] == known_configs("training") and own["type"] == "string" and "enum" not in own
    assert {entry["type"] for entry in form["overrides"]["anyOf"]} == {"object", "null"}
    assert form["rules"]["anyOf"][0]["enum"] == known_configs("promotion")
    assert sorted(form, key=lambda name: form[name]["position"])[:3] == ["family", "dataset", "overrides"]


def test_a_data_set_of_ones_own_is_a_choice_after_it_was_put_into_the_home(home):
    (home / "configs" / "training").mkdir(parents=True)
    (home / "configs" / "training" / "mine.yaml").write_text("source: file\n")
    form = parameter_schema(train.fn).model_dump()["properties"]
    assert "mine" in form["dataset"]["anyOf"][0]["enum"]


def test_nothing_overlaps_itself_and_what_the_clock_starts_is_dropped_rather_than_piled_up():
    for entry in declared():
        assert entry.concurrency_limit.limit == 1
        wanted = "CANCEL_NEW" if entry.schedules else "ENQUEUE"
        assert entry.concurrency_limit.collision_strategy == wanted, entry.name


def test_what_runs_when():
    assert {n: [s.cron for s in e.schedules] for n, e in by_name().items() if e.schedules} == {
        "train_all": ["0 2 * * *"],
        "export-loihi": ["0 6 * * 0"],
        "monitor": ["0 * * * *"],
        "auto_update": ["0 */6 * * *"],
    }
    trainings = {n for n, e in by_name().items() if e.work_pool.work_queue_name == "training"}
    assert trainings == {"train", "train_all", "unify", "retrain"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_placeholder_of_a_pool_is_a_variable_with_help_and_every_variable_is_used(kind):
    content = template(kind)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(content["job_configuration"])))
    assert used == set(content["variables"]["properties"])
    assert set(content["variables"].get("required", [])) <= used
    assert all(v.get("title") for v in content["variables"]["properties"].values())


def test_a_process_pool_starts_prefects_own_engine_and_nothing_that_a_form_says():
    assert set(template("process")["job_configuration"]) == {"name", "env", "labels", "stream_output", "working_dir"}


def filled(value: Any, values: dict[str, Any]) -> Any:
    """A template with its placeholders filled in; what has no value is left out, as Prefect does it."""
    if isinstance(value, dict):
        found = {key: filled(entry, values) for key, entry in value.items()}
        return {key: entry for key, entry in found.items() if entry is not None}
    if isinstance(value, list):
        return [filled(entry, values) for entry in value]
    if isinstance(value, str) and (whole := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
        return values.get(whole[1])
    return re.sub(r"\{\{ (\w+) \}\}", lambda m: str(values.get(m[1])), value) if isinstance(value, str) else value


def test_a_kubernetes_job_is_valid_and_has_no_rights():
    content = template("kubernetes")
    values = {n: v["default"] for n, v in content["variables"]["properties"].items() if "default" in v}
    values |= {"name": "run", "image": "registry.example/robustidps:1", "labels": {"app": "robustidps"}}
    job = filled(content["job_configuration"]["job_manifest"], values | {"env": [{"name": "A", "value": "b"}]})
    kubernetes_validate.validate(job, "1.30", strict=True)
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "8Gi"}


def test_a_container_is_not_root_and_can_gain_no_rights():
    job = template("docker")["job_configuration"]
    made = job["container_create_kwargs"]
    assert job["privileged"] is False and made["user"].split(":")[0] not in ("", "0", "root")
    assert made["cap_drop"] == ["ALL"] and made["security_opt"] == ["no-new-privileges:true"]
    assert made["pids_limit"] > 0 and template("docker")["variables"]["properties"]["mem_limit"]["default"] == "8g"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"kind": "docker"}, ConfigError, "a docker pool needs an image"),
        ({"image": "x"}, ConfigError, "a process pool takes no image"),
        ({"only": ["trane"]}, NotFoundError, "no deployment 'trane'"),
        ({"pool": "Not A Name"}, NameInvalidError, "is not a work pool name"),
        ({}, ConfigError, "no Prefect server is named"),
    ],
)
def test_what_can_not_be_deployed_is_said_before_anything_is_sent(options, error, said):
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(error, match=said):
        deploy(**options)
