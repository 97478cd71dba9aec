"""A unified model says what its members say, weighed by how well they did on validation, as one graph within limits."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from robustidps.bundle import open_bundle, verified_model
from robustidps.bundle.audit import audit
from robustidps.bundle.merge import merge
from robustidps.errors import BundleError, ConfigError, NotFoundError, ParityError, SchemaError
from robustidps.families import discover, family_settings, get_family
from robustidps.testing.linear import Linear, LinearSettings, toy_bundle
from robustidps.testing.registry import memory_registry
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.trafficset import TrafficSet
from robustidps.training import train_bundle
from robustidps.unified import fit_weights, members_of, unify

TRAIN, VALIDATION = toy_traffic(600, 1), toy_traffic(400, 2)


def member(folder, name, family=None, traffic=TRAIN, version="1.0.0", **settings):
    family = family or Linear()
    made = family_settings(family, settings)
    out = folder / f"{name}-{version}"
    return train_bundle(family, made, traffic, VALIDATION, name=name, version=version, out=out).bundle


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    return member(folder, "good", epochs=80), member(folder, "poor", epochs=1)


@pytest.fixture(scope="module")
def unified(two, tmp_path_factory):
    out = tmp_path_factory.mktemp("unified") / "bundle"
    return unify(two, TRAIN, VALIDATION, name="unified", version="1.0.0", out=out)


def weights_of(bundle):
    return {m["model"]: m["weight"] for m in bundle.metadata.training.settings["members"]}


def test_it_is_the_weighted_mean_of_what_its_members_say(two, unified):
    x = toy_traffic(300, 9).features
    mean = sum(weights_of(unified)[m.metadata.name] * m.probabilities(x).astype(np.float64) for m in two)
    sharpened = np.maximum(mean, 1e-12) ** (1 / unified.metadata.temperature)
    expected = sharpened / sharpened.sum(axis=1, keepdims=True)
    assert np.abs(unified.probabilities(x) - expected).max() < 2e-5


def test_it_is_a_bundle_like_any_other_and_names_its_members_digests(two, unified):
    with open_bundle(unified.path, expected_digest=unified.digest) as opened:
        facts = opened.metadata.training
        assert opened.metadata.family == "unified" and facts.data_digest == TRAIN.digest
        assert [m["digest"] for m in facts.settings["members"]] == [m.digest for m in two]
        assert opened.metadata.requirements and opened.metadata.performance_metrics["val_accuracy"] > 0.8
    assert audit(unified.path / "model.onnx").operators["Softmax"] == 3
    assert not (unified.path / "native").exists()


def test_the_better_member_weighs_more(unified):
    weights = weights_of(unified)
    assert weights["good"] > weights["poor"] and sum(weights.values()) == pytest.approx(1, abs=1e-5)


def test_weights_have_the_greatest_likelihood():
    rng = np.random.default_rng(0)
    truth, rows = rng.beta(3, 1, (500, 3)), rng.uniform(0.5, 2, 500)
    w = fit_weights(truth, rows)
    best = rows @ np.log(truth @ w)
    others = rng.dirichlet(np.ones(3), 2000)
    assert (rows @ np.log(truth @ others.T)).max() <= best + 1e-3
    assert w.sum() == pytest.approx(1) and (w >= 0).all()


def test_members_that_are_alike_weigh_the_same_and_a_hopeless_one_nothing():
    good = np.full((50, 1), 0.9)
    assert fit_weights(np.hstack([good, good]), np.ones(50)) == pytest.approx([0.5, 0.5])
    assert fit_weights(np.hstack([good, good * 0]), np.ones(50)) == pytest.approx([1, 0], abs=1e-6)


def test_members_of_different_frameworks_and_operator_sets_become_one_graph(two, tmp_path):
    found, others = discover(), {"boosted_trees": {"rounds": 5}, "neural_ode": {"epochs": 2}}
    usable = {name: s for name, s in others.items() if found[name].problem is None}
    if len(usable) < 2:
        pytest.skip("needs the extras torch and trees")
    members = [two[0]]
    for name, settings in usable.items():
        family = get_family(name)
        known = {k: v for k, v in settings.items() if k in family.settings.model_fields}
        members.append(member(tmp_path, name, family, **known))
    opsets = {e.version for m in members for e in onnx.load(m.path / "model.onnx").opset_import if not e.domain}
    assert len(opsets) > 1, "these members no longer differ in operator set: take others"
    bundle = unify(members, TRAIN, VALIDATION, name="unified", version="1.0.0", out=tmp_path / "bundle")
    assert bundle.parity.agrees and len(weights_of(bundle)) == 3


def test_a_unified_model_may_be_a_member(two, unified, tmp_path):
    bundle = unify([unified, two[0]], TRAIN, VALIDATION, name="again", version="1.0.0", out=tmp_path / "bundle")
    assert bundle.parity.agrees


def test_a_merged_graph_that_says_something_else_is_refused_and_nothing_is_written(two, tmp_path, monkeypatch):
    monkeypatch.setattr("robustidps.unified.merge", lambda models, weights, t: merge(models, weights[::-1], t))
    with pytest.raises(ParityError, match="disagree"):
        unify(two, TRAIN, VALIDATION, name="unified", version="1.0.0", out=tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_whole_beyond_the_audits_limits_is_refused(two, monkeypatch, tmp_path):
    models = [verified_model(m.path, m.digest) for m in two]
    size = max(map(len, models))
    monkeypatch.setattr(sys.modules["robustidps.bundle.audit"], "MAX_BYTES", size + 100)
    with pytest.raises(BundleError, match="larger than"):
        merge(models, [0.5, 0.5], 1.0)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6], [-0.5, 1.5], [0.5, float("nan")]])
def test_weights_that_are_none_are_refused(two, weights):
    with pytest.raises(BundleError, match="add up to 1"):
        merge([verified_model(m.path, m.digest) for m in two], weights, 1.0)


def test_a_member_that_was_edited_since_is_refused(two, tmp_path):
    import shutil

    copy = shutil.copytree(two[0].path, tmp_path / "copy")
    (copy / "reference.json").write_text("{}")
    with pytest.raises(BundleError, match="edited or damaged"):
        verified_model(copy, two[0].digest)


def test_a_member_that_learnt_from_other_rows_is_refused(two, tmp_path):
    stranger = member(tmp_path, "stranger", traffic=toy_traffic(600, 77))
    with pytest.raises(ConfigError, match=r"stranger@1\.0\.0: was trained on other rows"):
        unify([two[0], stranger], TRAIN, VALIDATION, name="u", version="1.0.0", out=tmp_path / "bundle")


def other_schema(traffic):
    schema = TOY.model_copy(update={"name": "other", "classes": ("Benign", "Flood", "Scan", "Renamed")})
    return TrafficSet.build(schema, traffic.features, traffic.labels)


def test_traffic_of_another_schema_is_refused(two, tmp_path):
    with pytest.raises(SchemaError, match="tells other classes apart than the traffic"):
        unify(two, other_schema(TRAIN), other_schema(VALIDATION), name="u", version="1.0.0", out=tmp_path / "bundle")


# --- naming members


@pytest.fixture
def registry(tmp_path, two):
    registry = memory_registry(tmp_path / "home")
    for bundle in two:
        registry.register_model(bundle.metadata.name, "1.0.0", bundle.path)
    return registry


def test_members_are_found_by_name_and_version(registry, two):
    assert [m.digest for m in members_of(registry, ["good@1.0.0", "poor@1.0.0"])] == [m.digest for m in two]


@pytest.mark.parametrize(
    ("references", "error", "reason"),
    [
        ([], ConfigError, "0 members"),
        (["good@1.0.0"], ConfigError, "1 members"),
        (["good@1.0.0"] * 17, ConfigError, "17 members"),
        (["good@1.0.0", "good@1.0.0"], ConfigError, "named twice"),
        (["good@latest", "good@1.0.0"], (ConfigError, NotFoundError), "named twice|approved|no"),
        (["good@1.0.0", "poor@9.0.0"], NotFoundError, "9.0.0"),
        (["good@1.0.0", "nobody@1.0.0"], NotFoundError, "no such model"),
    ],
)
def test_members_that_are_none_are_refused(registry, references, error, reason):
    with pytest.raises(error, match=reason):
        members_of(registry, references)


def test_a_member_of_another_schema_is_refused(registry, tmp_path):
    made = train_bundle(
        Linear(), LinearSettings(), other_schema(TRAIN), other_schema(VALIDATION), name="alien", version="1.0.0",
        out=tmp_path / "alien",
    ).bundle  # fmt: skip
    registry.register_model("alien", "1.0.0", made.path)
    with pytest.raises(SchemaError, match=r"alien@1\.0\.0: reads other columns.* than good@1\.0\.0"):
        members_of(registry, ["good@1.0.0", "alien@1.0.0"])


def test_a_bundle_that_says_nothing_of_its_training_is_refused(two, tmp_path):
    silent = toy_bundle(tmp_path / "toy")
    with pytest.raises(ConfigError, match="other rows"):
        unify([two[0], silent], TRAIN, VALIDATION, name="u", version="1.0.0", out=tmp_path / "bundle")
