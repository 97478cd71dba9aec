"""The page on models of your own does what it says: its code is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustidps.registry import registry as registry_module
from robustidps.settings import Settings, get_settings
from robustidps.testing.registry import MemoryTracking

pytestmark = pytest.mark.timeout(900)  # loads TensorFlow three times and PyTorch's exporter, on whatever machine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your-own-model.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Everything the page's code has defined, after it has run from top to bottom; MLflow is a stand-in."""
    for module in ("torch", "tensorflow", "tf2onnx", "nfstream"):
        pytest.importorskip(module, reason=f"{module} isn't installed")
    from robustidps.settings import use_settings

    folder = tmp_path_factory.mktemp("page")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch, use_settings(Settings(home=folder / "home")):
        patch.chdir(folder)
        patch.setattr(registry_module, "Tracking", lambda settings: MemoryTracking(settings))
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
        assert get_settings().home == folder / "home"
    return names


def test_the_improved_neural_ode_is_registered_with_the_guides_metadata(page) -> None:
    bundle = page["registry"].bundle("neural_ode", "2.1.0")
    assert bundle.metadata.author == "Roger Nick Anaedevha"
    assert bundle.metadata.performance_metrics["accuracy"] == 0.987
    assert (bundle.path / "native" / "weights.safetensors").is_file()
    traffic = page["traffic"]
    right = bundle.probabilities(traffic.features).argmax(axis=1) == traffic.labels
    assert right.mean() > 0.6  # trained, and not merely exported


def test_the_dense_keras_network_takes_raw_features_through_its_bundle(page) -> None:
    import numpy as np

    bundle = page["registry"].bundle("tensorflow_detector", "1.0.0")
    theirs = np.asarray(page["dense"](page["z"][:300], training=False))
    assert np.abs(bundle.probabilities(page["traffic"].features[:300]) - theirs).max() < 1e-5
    assert (bundle.path / "native" / "model.keras").is_file()


def test_the_rules_see_a_hand_registered_version_before_it_serves(page) -> None:
    assert page["registry"].assignment("neural_ode").production is None


def test_keras_three_refuses_the_guides_spelling_as_the_page_says(page, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\.keras"):
        page["dense"].save(tmp_path / "tensorflow_detector_v1.0.0")
