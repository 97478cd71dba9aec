"""PyTorch modules and files of weights: read without trusting them, exported, held against themselves."""

from __future__ import annotations

import os

import numpy as np
import pytest

from robustidps.errors import BundleError, InputError
from robustidps.importing import import_model, weights
from robustidps.registry.metadata import ModelMetadata, TrainingFacts
from robustidps.testing.traffic import TOY, toy_traffic

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(900)  # the first export loads most of PyTorch, on whatever machine
ROWS = toy_traffic(300)


def meta(**changes) -> ModelMetadata:
    facts = {"name": "mine", "version": "1.0.0", "model_type": "pytorch", "framework": "pytorch"}
    return ModelMetadata(**(facts | {"input_dim": 8, "output_dim": 4} | changes))


def network(width: int = 8):
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 4)
    )


def test_a_state_dict_and_its_module_become_a_bundle(tmp_path):
    trained = network()
    trained(torch.from_numpy(np.nan_to_num(ROWS.features)))  # gives the batch norm means of its own
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    other = network().train()
    bundle = import_model(tmp_path / "w.pt", tmp_path / "b", metadata=meta(), rows=ROWS, network=other)
    clean = ROWS.features[np.isfinite(ROWS.features).all(axis=1)]
    with torch.inference_mode():
        said = torch.softmax(trained.eval()(torch.from_numpy(clean)), dim=-1).numpy()
    assert np.abs(bundle.probabilities(clean) - said).max() < 1e-5
    assert (bundle.path / "native" / "weights.safetensors").is_file()
    assert other.training and other[0].num_batches_tracked == 0  # the caller's module is left as it was


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_a_pt_file_is_refused_and_not_run(tmp_path):
    (tmp_path / "work").mkdir()
    for name, content in (("bomb", {"w": Bomb(tmp_path / "run")}), ("whole", network())):
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(BundleError, match="weights_only=True") as caught:
            weights.read(tmp_path / f"{name}.pt", tmp_path / "work")
        assert "state_dict" in (caught.value.remedy or "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"PK\x03\x04 cut"])
def test_a_damaged_safetensors_file_is_refused(tmp_path, data):
    (tmp_path / "w.safetensors").write_bytes(data)
    (tmp_path / "work").mkdir()
    with pytest.raises(BundleError, match="isn't a safetensors file"):
        weights.read(tmp_path / "w.safetensors", tmp_path / "work")


def test_weights_that_do_not_fit_the_module_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    save_file(network(9).state_dict(), str(tmp_path / "w.safetensors"))
    with pytest.raises(BundleError, match=r"weights don't fit the module.*0.weight"):
        import_model(tmp_path / "w.safetensors", tmp_path / "b", metadata=meta(), rows=ROWS, network=network())


def test_weights_without_module_or_family_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file(network().state_dict(), str(tmp_path / "w.safetensors"))
    for options in ({}, {"features": "standardised"}):
        with pytest.raises(InputError, match="weights alone"):
            import_model(tmp_path / "w.safetensors", tmp_path / "b", metadata=meta(), rows=ROWS, **options)


def test_a_module_of_another_width_is_refused(tmp_path):
    with pytest.raises(BundleError, match="fails on 300 rows of 8 features"):
        import_model(network(9), tmp_path / "b", metadata=meta(), rows=ROWS)


def test_weights_of_a_family_become_that_family_again(tmp_path):
    pytest.importorskip("flax")
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    sizes = [TOY.standardised_dim, 6, 4]
    tensors = {}
    for k in range(2):
        tensors |= {f"kernel{k}": rng.normal(0, 0.3, (sizes[k], sizes[k + 1])).astype(np.float32)}
        tensors |= {f"bias{k}": rng.normal(0, 0.3, sizes[k + 1]).astype(np.float32)}
    save_file(tensors, str(tmp_path / "w.safetensors"))
    facts = TrainingFacts(dataset="toy", data_digest=ROWS.digest, rows=300, settings={"hidden": [6]})
    told = meta(family="flax_mlp", training=facts)
    bundle = import_model(tmp_path / "w.safetensors", tmp_path / "b", metadata=told, rows=ROWS, features="standardised")
    assert bundle.metadata.family == "flax_mlp"
    assert {p.name for p in (bundle.path / "native").iterdir()} == {"weights.safetensors", "config.json"}
