"""Damage at random: whatever happens to a bundle's files, opening it ends in a BundleError and in nothing else."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustidps.bundle import open_bundle
from robustidps.bundle.audit import audit
from robustidps.errors import BundleError
from robustidps.evaluation.reference import drift_against_profile, fitting_profile
from robustidps.testing.forge import reseal
from robustidps.testing.linear import toy_bundle

FILES = ["model.onnx", "metadata.json", "schema.json", "reference.json", "golden.npz", "native/linear.json"]
relaxed = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def damage(draw):
    """A function from bytes to other bytes: some flipped, a piece cut out, doubled or overwritten."""
    where = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
    kind = draw(st.sampled_from(["flip", "flip", "cut", "end", "double", "insert"]))
    extra = draw(st.binary(min_size=1, max_size=12))

    def apply(data: bytes) -> bytes:
        places = [min(int(at * len(data)), len(data) - 1) for at, _ in where]
        first, last = min(places), max(places)
        if kind == "flip":
            out = bytearray(data)
            for place, (_, bits) in zip(places, where, strict=True):
                out[place] ^= bits
            return bytes(out)
        parts = {
            "cut": data[:first] + data[last + 1 :],
            "end": data[:first],
            "double": data[:last] + data[first:],
            "insert": data[:first] + extra + data[first:],
        }
        return parts[kind]

    return apply


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("original") / "b", rows=100)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed") / "b"


def damaged(original, place, name, change) -> bool:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original.path, place)
    before = (place / name).read_bytes()
    (place / name).write_bytes(change(before))
    return (place / name).read_bytes() != before


@settings(relaxed, max_examples=150)
@given(name=st.sampled_from(FILES), change=damage())
def test_damage_to_any_file_is_refused(original, place, name, change):
    if damaged(original, place, name, change):
        with pytest.raises(BundleError):
            open_bundle(place)


@settings(relaxed, max_examples=200)
@given(name=st.sampled_from(FILES[2:]), change=damage())
def test_damage_with_a_digest_that_fits_is_refused_or_does_no_harm(original, place, name, change):
    """The parsers behind the digest: what still opens gives the same probabilities, and drift can be told from it."""
    damaged(original, place, name, change)
    reseal(place)
    try:
        opened = open_bundle(place)
    except BundleError:
        return
    x, _ = original.golden
    np.testing.assert_array_equal(opened.probabilities(x), original.probabilities(x))
    assert np.isfinite(drift_against_profile(opened.reference, x)["prediction_psi"] or 0.0)


STRANGE = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    *(st.just(10**400), st.just([]), st.just({})),
)


@settings(relaxed, max_examples=150)
@given(data=st.data())
def test_a_reference_whose_content_is_any_is_refused_or_drift_can_be_told_from_it(original, data):
    """Some values in it replaced, dropped or doubled, wherever they stand."""
    content = json.loads(json.dumps(original.reference))
    for _ in range(data.draw(st.integers(1, 3))):
        inside, key = content, data.draw(st.sampled_from(sorted(content)))
        while isinstance(inside[key], dict | list) and inside[key] and data.draw(st.integers(0, 4)):
            inside = inside[key]
            key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        match data.draw(st.sampled_from(["replace", "drop", "double"])):
            case "drop" if len(inside) > 1:
                del inside[key]
            case "double" if isinstance(inside, list):
                inside.append(inside[key])
            case _:
                inside[key] = data.draw(STRANGE)
    x, probabilities = original.golden
    try:
        found = fitting_profile(content, original.schema, "reference.json")
    except BundleError as error:
        assert str(error).isprintable()
        return
    drift = drift_against_profile(found, x, probabilities)
    assert all(np.isfinite(value) for value in drift["psi"].values())
    assert np.isfinite([drift["prediction_psi"] or 0.0, drift["confidence_psi"] or 0.0]).all()


@settings(relaxed, max_examples=600)
@given(change=damage())
def test_the_audit_of_a_damaged_graph_ends_in_a_verdict(original, change):
    """Never in another exception. (ONNX Runtime itself is left out: it has crashed on fuzzed models.)"""
    try:
        audit(change((original.path / "model.onnx").read_bytes()))
    except BundleError as error:
        assert str(error).isprintable()


@settings(relaxed, max_examples=150)
@given(st.binary(max_size=400))
def test_the_audit_of_noise_is_a_refusal(data):
    with pytest.raises(BundleError):
        audit(data)
