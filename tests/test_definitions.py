"""Everything that is declared must load: configurations, flows, deployments, entry points, links, documents."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from robustidps.families import GROUP, discover, family_settings, get_family
from robustidps.judging import rule_set
from robustidps.settings import CONFIGS, load_yaml
from robustidps.traffic.common import Mapping
from robustidps.traffic.prepare import DatasetConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").glob("*.md")]
HEAVY = {
    "alembic", "evidently", "lightgbm", "matplotlib", "mlflow", "nfstream", "onnx", "onnxruntime", "pandas", "prefect",
    "pyarrow", "sklearn", "sqlalchemy", "torch",
}  # fmt: skip


@pytest.mark.parametrize("file", sorted((CONFIGS / "training").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_data_set_configuration_loads_and_names_rules_that_exist(file: Path) -> None:
    assert rule_set(load_yaml(file, DatasetConfig).rules).rules


@pytest.mark.parametrize("file", sorted((CONFIGS / "promotion").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_rule_set_loads_and_is_called_what_its_file_is_called(file: Path) -> None:
    assert rule_set(file.stem).name == file.stem


@pytest.mark.parametrize("file", sorted((CONFIGS / "families").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_family_configuration_belongs_to_a_family_and_loads(file: Path) -> None:
    assert family_settings(get_family(file.stem))


@pytest.mark.parametrize("file", sorted((CONFIGS / "common").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_mapping_to_common_features_loads(file: Path) -> None:
    assert load_yaml(file, Mapping).title


def test_every_configuration_folder_is_known_to_a_test() -> None:
    assert {p.name for p in CONFIGS.iterdir() if p.is_dir()} == {
        "common",
        "ageing",
        "datasets",
        "training",
        "promotion",
        "families",
        "labels",
    }


def test_every_built_in_family_is_found_and_usable() -> None:
    ours = {p.name for p in entry_points(group=GROUP) if p.dist and p.dist.name == "robustidps"}
    found = discover()
    assert ours and all(found[name].problem is None for name in ours)


def _deployments() -> list[dict]:
    return yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda d: d["name"])
def test_every_deployment_names_a_flow_and_parameters_that_it_takes(deployment: dict) -> None:
    from prefect import Flow

    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    assert set(deployment.get("parameters", {})) <= set(inspect.signature(flow.fn).parameters)
    flow.validate_parameters({**_required(flow), **deployment.get("parameters", {})})


def _required(flow) -> dict[str, str]:
    parameters = inspect.signature(flow.fn).parameters.values()
    return {p.name: "x" for p in parameters if p.default is inspect.Parameter.empty}


def test_every_flow_parameter_has_a_line_of_help() -> None:
    from robustidps.flows.evaluate_on_hardware import evaluate_on_hardware
    from robustidps.flows.export_loihi import export_loihi
    from robustidps.flows.monitor import monitor
    from robustidps.flows.promote import promote
    from robustidps.flows.retrain import retrain
    from robustidps.flows.train import train
    from robustidps.flows.unify import unify

    for flow in (train, unify, evaluate_on_hardware, promote, export_loihi, monitor, retrain):
        properties = flow.parameters.model_dump()["properties"]
        assert all(entry.get("description") for entry in properties.values()), flow.name


@pytest.mark.parametrize(
    "module", ["robustidps", "robustidps.cli", "robustidps.families", "robustidps.models.neural_ode"]
)
def test_importing_brings_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_library_never_imports_prefect() -> None:
    library = [
        p
        for p in (ROOT / "robustidps").rglob("*.py")
        if p.relative_to(ROOT / "robustidps").parts[0] not in ("models", "tasks", "flows", "configs")
    ]
    offenders = [p for p in library if re.search(r"^\s*(import prefect|from prefect)", p.read_text(), re.MULTILINE)]
    assert offenders == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        inner = [t for t in targets if not re.match(r"[a-z]+:", t)]
        broken += [f"{page.relative_to(ROOT)}: {t}" for t in inner if not (page.parent / t).exists()]
    assert broken == []


def test_every_command_that_the_readme_shows_exists() -> None:
    from typer.main import get_command

    from robustidps.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        name
        for page in pages
        for name in re.findall(r"^\s+(?:\$ )?robustidps ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert shown <= set(known), shown - set(known)
