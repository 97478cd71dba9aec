"""The upgrade guide's snippets about the registry run as they stand, their import line aside.

The snippets are the guide's text: names, arguments, subscripts. What they take as given (`test_dataset`,
`evaluate_model`, a remote registry) is made here. What differs is said at the snippet. Registering a PyTorch state dict
and a Keras model is in `tests/test_your_own_model.py`, a SavedModel folder in `tests/importing/test_keras.py`.
"""

from __future__ import annotations

import ast
import asyncio
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from robustidps import ModelMetadata, ModelRegistry
from robustidps.errors import ModelValidationError
from robustidps.registry import registry as registry_module
from robustidps.registry.metadata import TrainingFacts
from robustidps.settings import Settings, use_settings
from robustidps.testing.judged import RULES, later, taught
from robustidps.testing.registry import APPROVE, MemoryTracking
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.testing.web import served

CHECK = """
# Initialize registry
registry = ModelRegistry(
    registry_path="/app/models",
    remote_registry_url="https://robustidps.ai/api/v1/model-registry",
    enable_auto_update=True
)

# Check for updates
updates = await registry.check_for_updates()

for update in updates:
    print(f"{update['name']}: {update['current_version']} -> {update['new_version']}")
    print(f"   Accuracy improvement: +{update['performance_metrics']['accuracy_gain']}%")
"""

INSTALL = """
# Download update
success = await registry.download_and_install_update(
    name="neural_ode",
    version="2.1.0",
    auto_activate=True  # Automatically hot-swap
)

if success:
    print("Update installed and activated")
"""

HOT_SWAP = """
# Manual hot-swap
registry.hot_swap_model(
    current_name="neural_ode",
    new_version="2.1.0",
    validation_fn=lambda model: validate_model_performance(model)
)
"""

VALIDATE = '''
def validate_model_performance(model):
    """Validate new model before activation"""
    # Run on test dataset
    test_accuracy = evaluate_model(model, test_dataset)

    # Must meet minimum threshold
    if test_accuracy < 0.95:
        print(f"Validation failed: accuracy {test_accuracy} < 0.95")
        return False

    print(f"Validation passed: accuracy {test_accuracy}")
    return True
'''

LOOP = """
# Enable auto-update with safety checks
await registry.auto_update_loop(interval_hours=24)
"""

ROLLBACK = """
# Automatic rollback if new model fails
try:
    registry.hot_swap_model("neural_ode", "2.1.0")
except ModelValidationError:
    print("New model failed validation - rolling back")
    registry.hot_swap_model("neural_ode", "2.0.0")
"""

# Ours are `model=`, since a state dict is numbers without the module; `rows=`, since the toy schema isn't flow64's
# 64 x 13; and `training=`, without which nobody can tell that the model is judged on other rows than it learnt from.
INSTALL_NEW = """
torch.save(model.state_dict(), f"{tmp}/neural_ode_v2.1.0.pt")

# 3. Create metadata
metadata = ModelMetadata(
    name="neural_ode",
    version="2.1.0",
    model_type="pytorch",
    framework="pytorch",
    input_dim=8,
    output_dim=4,
    performance_metrics={
        'accuracy': 0.987,
        'f1_score': 0.983,
        'false_positive_rate': 0.015,
        'latency_ms': 42,
        'throughput_events_sec': 15000
    },
    requirements=['torch>=2.0.0', 'torchdiffeq>=0.2.4'],
    checksum="",  # Auto-computed
    created_at=datetime.now(),
    author="Roger Nick Anaedevha",
    description="Improved Neural ODE with advanced temporal adaptation",
    training=training
)

# 4. Register with registry
registry = ModelRegistry()
registry.register_model(
    name="neural_ode",
    version="2.1.0",
    model_path=Path(f"{tmp}/neural_ode_v2.1.0.pt"),
    metadata=metadata,
    model=model, rows=rows, held_out=held_out
)

# 5. Activate new model
registry.hot_swap_model("neural_ode", "2.1.0")
"""

QUANTUM = """
# Use quantum model for detection
async def detect_with_quantum(traffic_features):
    registry = ModelRegistry()

    # Load quantum model
    qnn = registry.load_model("quantum_ids", "latest")

    # Run inference
    with torch.no_grad():
        predictions = qnn(traffic_features)

    return predictions
"""


def run(snippet: str, names: dict, **instead: str) -> dict:
    """Runs a snippet as a notebook does, `await` and all; `instead`: addresses and paths of this test."""
    for given, ours in instead.values():
        assert snippet.count(given) == 1
        snippet = snippet.replace(given, ours)
    code = compile(snippet, "guide.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(code, names)  # noqa: S307 - the guide's text, above
    if pending is not None:
        asyncio.run(pending)
    return names


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict:
    """`neural_ode` 2.0.0, which learnt from labels of which a third is wrong; 2.1.0, which learnt from true ones."""
    folder = tmp_path_factory.mktemp("bundles")

    def sloppy(labels):
        return np.where(np.arange(len(labels)) % 3 == 0, (labels + 1) % 3, labels).astype(np.int16)

    made = {
        "2.0.0": taught(folder / "2.0.0", "2.0.0", sloppy, name="neural_ode"),
        "2.1.0": taught(folder / "2.1.0", "2.1.0", name="neural_ode"),
    }
    return made | {"quantum": taught(folder / "quantum", "1.0.0", name="quantum_ids")}


@pytest.fixture
def site(tmp_path, bundles, monkeypatch):
    """What the snippets take as given: an installation with neural_ode 2.0.0 in production, and a test data set."""
    settings = Settings(home=tmp_path / "models")
    tracking = MemoryTracking(settings)
    monkeypatch.setattr(registry_module, "Tracking", lambda settings: tracking)
    with use_settings(settings):
        for name in ("toy", "auto_update"):  # what these small models can meet
            rules = settings.folder("configs", "promotion") / f"{name}.yaml"
            rules.write_text(RULES.replace("name: toy", f"name: {name}"), encoding="utf-8")
        held_out = later(toy_traffic(900, seed=9), 5)
        path = held_out.write(settings.folder("traffic") / "held-out.parquet")
        facts = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "toy"}
        registry = ModelRegistry()
        registry.register_model("neural_ode", "2.0.0", bundles["2.0.0"].path, held_out=facts)
        registry.transition("neural_ode", "2.0.0", "Production", verdict=APPROVE)
        sure = bundles["2.1.0"].probabilities(held_out.features).max(axis=1) > 0.97
        names = {"ModelRegistry": ModelRegistry, "ModelMetadata": ModelMetadata, "Path": Path, "datetime": datetime}
        names |= {"ModelValidationError": ModelValidationError, "registry": registry, "held_out": facts}
        names |= {"tmp": str(tmp_path), "test_dataset": held_out.select(sure)}  # flows that can be told apart
        names["evaluate_model"] = lambda model, data: (model(data.features).argmax(axis=1) == data.labels).mean()
        yield names


def offer(site, bundles, version: str = "2.1.0") -> None:
    site["registry"].register_model("neural_ode", version, bundles[version].path, held_out=site["held_out"])


# --- 3. Hot-Swap Without Downtime


def test_a_hot_swap_with_the_guides_validation_function_is_used_by_every_handle(site, bundles, capsys):
    offer(site, bundles)
    handle = site["registry"].load_model("neural_ode", "latest")
    assert handle.version == "2.0.0"
    run(HOT_SWAP, run(VALIDATE, site))
    assert "Validation passed: accuracy" in capsys.readouterr().out
    assert site["registry"].assignment("neural_ode").production == handle.version == "2.1.0"


def test_a_validation_function_that_says_no_leaves_production_as_it_was(site, bundles, capsys):
    offer(site, bundles)
    handle = site["registry"].load_model("neural_ode", "latest")
    site["test_dataset"] = later(toy_traffic(900, seed=9), 5)  # all flows: a linear model tells fewer of them apart
    with pytest.raises(ModelValidationError, match="validation_fn"):
        run(HOT_SWAP, run(VALIDATE, site))
    assert "Validation failed: accuracy" in capsys.readouterr().out
    assert site["registry"].assignment("neural_ode").production == handle.version == "2.0.0"
    assert site["registry"].history("neural_ode")[-1].action == "refuse"


# --- 5. Rollback on Failure


def test_a_new_model_that_fails_validation_leaves_the_old_one_where_the_guide_puts_it_back(site, bundles, capsys):
    registry = site["registry"]
    taught(Path(site["tmp"]) / "bad", "2.1.0", lambda labels: np.choose(labels, [1, 0, 2]), name="neural_ode")
    registry.register_model("neural_ode", "2.1.0", Path(site["tmp"]) / "bad", held_out=site["held_out"])
    generation = registry.assignment("neural_ode").generation
    run(ROLLBACK, site)
    assert "rolling back" in capsys.readouterr().out
    assert registry.assignment("neural_ode").production == "2.0.0"
    assert registry.assignment("neural_ode").generation == generation  # it never left, so nothing was moved


def test_a_new_model_that_passes_stays(site, bundles):
    offer(site, bundles)
    run(ROLLBACK, site)
    assert site["registry"].assignment("neural_ode").production == "2.1.0"


# --- Installing new models


def test_a_new_pytorch_model_is_registered_and_activated_by_the_guides_calls(site):
    torch = pytest.importorskip("torch", reason="the guide's example is in PyTorch")
    rows = toy_traffic(900, seed=3)

    class ImprovedNeuralODE(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.BatchNorm1d(TOY.input_dim, eps=0.01)  # a column is constant
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(TOY.input_dim, 24), torch.nn.Tanh(), torch.nn.Linear(24, TOY.output_dim)
            )

        def forward(self, x):
            return self.layers(self.scale(torch.sign(x) * torch.log1p(torch.abs(x))))

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = ImprovedNeuralODE()
    x, y = torch.from_numpy(np.nan_to_num(rows.features)), torch.from_numpy(rows.labels.astype(np.int64))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    torch.set_num_threads(threads)
    handle = site["registry"].load_model("neural_ode", "production")
    span = {"time_from": float(rows.time.min()), "time_to": float(rows.time.max())}
    training = TrainingFacts(dataset="toy", data_digest=rows.digest, rows=len(rows), **span)
    run(INSTALL_NEW, site | {"torch": torch, "model": model.eval(), "rows": rows, "training": training})
    assert site["registry"].assignment("neural_ode").production == handle.version == "2.1.0"
    assert handle.digest == handle.metadata.checksum and handle.metadata.performance_metrics["accuracy"] == 0.987


# --- Use quantum model for detection


def test_a_coroutine_loads_the_latest_version_and_asks_it(site, bundles):
    torch = pytest.importorskip("torch", reason="the guide's example is in PyTorch")
    site["registry"].register_model("quantum_ids", "1.0.0", bundles["quantum"].path)
    site["registry"].transition("quantum_ids", "1.0.0", "Production", verdict=APPROVE)
    names = run(QUANTUM, site | {"torch": torch})
    features = toy_traffic(20, seed=1, missing=0).features
    predictions = asyncio.run(names["detect_with_quantum"](torch.from_numpy(features)))
    assert np.array_equal(predictions, bundles["quantum"].probabilities(features))


# --- 1, 2 and 4: updates from a remote registry


@pytest.fixture
def remote(site, bundles, tmp_path):
    """The address of a web server with neural_ode 2.1.0, whose root this installation has pinned."""
    from robustidps.testing.remote import MemoryRemote

    published = MemoryRemote.offering(bundles["2.1.0"])
    published.registry(Path(site["registry"].settings.home))
    with served(published.write(tmp_path / "served")) as address:
        yield address


def check(site, remote: str) -> dict:
    home = str(site["registry"].settings.home)
    url = ("https://robustidps.ai/api/v1/model-registry", remote)
    return run(CHECK, site, path=("/app/models", home), url=url)


def test_the_guides_check_prints_what_there_is(site, remote, capsys):
    names = check(site, remote)
    printed = capsys.readouterr().out
    assert "neural_ode: 2.0.0 -> 2.1.0" in printed and "Accuracy improvement: +" in printed
    [update] = names["updates"]
    assert update["name"] == "neural_ode" and isinstance(update["performance_metrics"]["accuracy_gain"], float)
    assert [v.version for v in site["registry"].versions("neural_ode")] == ["2.0.0"]  # asking changes nothing


def test_the_guides_installation_activates_an_update_that_is_better_here(site, remote, capsys):
    names = check(site, remote)
    handle = names["registry"].load_model("neural_ode", "latest")
    run(INSTALL, names)
    assert "Update installed and activated" in capsys.readouterr().out
    assert site["registry"].assignment("neural_ode").production == handle.version == "2.1.0"


def test_the_guides_loop_takes_an_update_by_itself(site, remote):
    names = check(site, remote)

    async def until_it_is_there() -> None:
        scope = dict(names)
        code = compile(LOOP, "guide.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        loop = asyncio.ensure_future(eval(code, scope))  # noqa: S307 - the guide's text, above
        ends = time.monotonic() + 60
        while names["registry"].assignment("neural_ode").production != "2.1.0" and time.monotonic() < ends:
            await asyncio.sleep(0.1)
            if loop.done():
                break
        loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loop

    asyncio.run(until_it_is_there())
    assert names["registry"].assignment("neural_ode").production == "2.1.0"


def test_the_guides_loop_ends_by_itself_after_as_many_rounds_as_it_is_given(site, remote):
    names = check(site, remote)
    run(LOOP, names, rounds=("interval_hours=24", "interval_hours=24, rounds=1"))
    assert names["registry"].assignment("neural_ode").production == "2.1.0"
