"""What a site measures by itself: on a pinned benchmark, on recent traffic without labels, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustidps import judging
from robustidps.errors import BundleError, DatasetError, IntegrityError, NotFoundError, SchemaError
from robustidps.evaluation.evasion import evaded_digest
from robustidps.settings import use_settings
from robustidps.testing.judged import later, register_judged, taught
from robustidps.testing.registry import APPROVE, memory_registry
from robustidps.testing.traffic import TOY, toy_traffic
from robustidps.traffic.trafficset import TrafficSet
from robustidps.updates import evidence

WIDER = TOY.model_copy(update={"name": "toy-wider", "classes": (*TOY.classes, "Worm")})


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict:
    """1.0.0 for production, an update beside it, one whose alerts are many, and one that knows a class more."""
    folder = tmp_path_factory.mktemp("bundles")
    loud = lambda labels: np.where(np.arange(len(labels)) % 3 == 0, 1, labels).astype(np.int16)  # noqa: E731
    return {
        "1.0.0": taught(folder / "1.0.0", "1.0.0"),
        "1.1.0": taught(folder / "1.1.0", "1.1.0", seed=1),
        "1.2.0": taught(folder / "1.2.0", "1.2.0", loud),
        "1.3.0": taught(folder / "1.3.0", "1.3.0", schema=WIDER),
        "2.0.0": taught(folder / "2.0.0", "2.0.0", seed=2),
    }


@pytest.fixture
def site(tmp_path, bundles):
    """A registry with 1.0.0 in production, registered with held-out traffic; nothing has come in yet."""
    registry = memory_registry(tmp_path / "home")
    with use_settings(registry.settings):
        register_judged(registry, {"1.0.0": bundles["1.0.0"].path})
        registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
        yield registry


@pytest.fixture
def bare(tmp_path, bundles):
    """The same, without any labelled traffic."""
    registry = memory_registry(tmp_path / "home")
    with use_settings(registry.settings):
        registry.register_model("toy", "1.0.0", bundles["1.0.0"].path)
        registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
        yield registry


def come_in(registry, *days: float, rows: int = 1500, folder: str = "toy") -> Path:
    """Traffic without labels in the folder where it comes in; gives the folder."""
    where = registry.settings.home / "incoming" / folder
    for day in days:
        traffic = later(toy_traffic(rows, seed=int(100 + day)), day)
        replace(traffic, labels=np.full(len(traffic), -1, np.int16)).write(where / f"day{day:04.0f}.parquet")
    return where


def bench(tmp_path: Path, rows: int = 2400, day: float = 9) -> Path:
    return later(toy_traffic(rows, seed=77), day).write(tmp_path / "bench.parquet")


# --- The pin


def test_updates_are_judged_on_what_is_pinned_and_else_on_what_production_was_registered_with(site, bundles, tmp_path):
    recorded = site.resolve("toy", "production").held_out
    assert evidence.benchmark(site, "toy")["digest"] == recorded["digest"] and evidence.pinned(site, "toy") is None
    made = evidence.pin(site, "toy", bench(tmp_path), dataset="ours", actor="ann")
    assert evidence.pinned(site, "toy") == made and (made.rows, made.dataset, made.by) == (2400, "ours", "ann")
    case = evidence.measure(site, bundles["1.1.0"], rules="toy")
    assert case.tier == "labelled"
    for one in (case.candidate, case.champion):
        assert (one.evaluation.data_digest, one.evaluation.dataset) == (made.digest, "ours")
    assert {"accuracy", "macro_f1"} <= {p.metric for p in case.paired}
    assert evidence.unpin(site, "toy") and not evidence.unpin(site, "toy")
    assert evidence.benchmark(site, "toy")["digest"] == recorded["digest"]
    assert Path(made.path).is_file()  # a version judged on it may name it


def test_a_pin_takes_a_copy_that_outlives_and_outlasts_the_file(site, tmp_path):
    path = bench(tmp_path)
    made = evidence.pin(site, "toy", path)
    path.unlink()
    assert judging.read_held_out(evidence.benchmark(site, "toy"), "toy").digest == made.digest
    Path(made.path).chmod(0o644)
    toy_traffic(50).write(Path(made.path))
    with pytest.raises(IntegrityError, match="was changed"):
        judging.read_held_out(evidence.benchmark(site, "toy"), "toy")


def test_evaded_traffic_is_pinned_beside_it_and_measured(site, bundles, tmp_path):
    rows = TrafficSet.read(bench(tmp_path))
    attacks = rows.select(rows.labels > 0)
    altered = TrafficSet.concat(
        [replace(attacks, source=np.full(len(attacks), how, object)) for how in ("unchanged", "slower")]
    )
    made = evidence.pin(site, "toy", tmp_path / "bench.parquet", evaded=altered.write(tmp_path / "evaded.parquet"))
    assert made.evaded["digest"] == evaded_digest(altered)
    case = evidence.measure(site, bundles["1.1.0"], rules="toy")
    assert case.candidate.evaluation.evasion.data_digest == case.champion.evaluation.evasion.data_digest


@pytest.mark.parametrize("how", ["edited", "renamed", "cut off", "of another installation"])
def test_a_pin_that_somebody_edited_is_refused(site, tmp_path, how):
    evidence.pin(site, "toy", bench(tmp_path))
    file = site.settings.home / "updates" / "benchmarks" / "toy.json"
    content = json.loads(file.read_text())
    if how == "edited":
        content["pin"]["digest"] = "0" * 64
        file.write_text(json.dumps(content))
    elif how == "renamed":
        shutil.copy(file, file.with_name("other.json"))
    elif how == "cut off":
        file.write_text(file.read_text()[:40])
    else:
        evidence.pin(memory_registry(tmp_path / "theirs"), "toy", bench(tmp_path))
        shutil.copy(tmp_path / "theirs" / "updates" / "benchmarks" / "toy.json", file)
    with pytest.raises(IntegrityError, match="pin"):
        evidence.benchmark(site, "other" if how == "renamed" else "toy")


def test_what_nobody_labelled_or_is_of_another_schema_is_not_pinned(site, tmp_path):
    with pytest.raises(DatasetError, match="no row has a label"):
        evidence.pin(site, "toy", next(come_in(site, 6).iterdir()))
    other = TOY.model_copy(update={"name": "other", "classes": ("Benign", "Worm", "Scan", "Never-Seen")})
    path = replace(toy_traffic(50), schema=other).write(tmp_path / "other.parquet")
    with pytest.raises(DatasetError, match="schema"):
        evidence.pin(site, "toy", path)
    assert evidence.pinned(site, "toy") is None


# --- The tiers


def test_an_update_goes_on_where_a_site_has_labels_and_it_is_better_there(site, bundles, tmp_path):
    evidence.pin(site, "toy", bench(tmp_path))
    case = evidence.measure(site, bundles["1.1.0"], rules="toy")
    assert case.verdict("Production").outcome == "promote"
    assert case.candidate.bundle_digest == bundles["1.1.0"].digest and case.candidate.rollback_available is True
    said = judging.recorded(case)
    assert said["tier"] == "labelled" and said["candidate"]["metrics"]["accuracy"] > 0.6
    assert json.dumps(said, allow_nan=False)
    assert [v.version for v in site.versions("toy")] == ["1.0.0"]  # measuring registers nothing


def test_without_labels_an_update_is_held_against_production_on_recent_traffic(bare, bundles):
    come_in(bare, 6, 7)
    case = evidence.measure(bare, bundles["1.1.0"], rules="auto_update_unlabelled")
    recent = case.candidate.unlabelled
    assert case.tier == "unlabelled" and case.candidate.evaluation is None
    assert (recent.rows, recent.blocks) == (3000, "hour") and recent.disagreement.value < 0.05
    x = np.concatenate([TrafficSet.read(p).features for p in come_in(bare).iterdir()])
    mine, theirs = (bundles[v].probabilities(x).argmax(axis=1) for v in ("1.1.0", "1.0.0"))
    assert recent.disagreement.value == pytest.approx((mine != theirs).mean())
    assert recent.disagreement.low <= recent.disagreement.value <= recent.disagreement.high
    assert recent.figures["latency_p99_ms"] > 0 and case.candidate.drift_share == recent.drift_share == 0
    said = {r.rule: r.passed for r in case.verdict("Production").results}
    assert said["disagreement"] and said["latency"] and said["rollback_available"] and said["drift_ceiling"]
    assert judging.recorded(case)["candidate"]["unlabelled"]["rows"] == 3000


def test_an_update_that_sees_other_things_than_production_is_refused_without_labels(bare, bundles):
    come_in(bare, 6)
    verdict = evidence.measure(bare, bundles["1.2.0"], rules="auto_update_unlabelled").verdict("Production")
    assert verdict.outcome == "reject"
    assert any(r.startswith("disagreement: share of 1500 recent flows") and "above 0.05" in r for r in verdict.reasons)


def test_moved_traffic_breaks_the_drift_ceiling(bare, bundles):
    where = come_in(bare, 6)
    traffic = TrafficSet.read(next(where.iterdir()))
    traffic.features[:, :2] *= 1000
    traffic.features[:, 5] = 0
    replace(traffic).write(next(where.iterdir()))
    case = evidence.measure(bare, bundles["1.1.0"], rules="auto_update_unlabelled")
    assert {"duration", "bytes", "error_rate"} <= set(case.candidate.unlabelled.moved)
    assert any("drift_ceiling" in r for r in case.verdict("Production").reasons)


@pytest.mark.parametrize("rules", ["auto_update", "auto_update_unlabelled"])
def test_with_neither_an_update_may_wait_in_staging_and_goes_no_further(bare, bundles, rules):
    case = evidence.measure(bare, bundles["1.1.0"], rules=rules)
    assert case.tier == "none"
    assert case.verdict("Staging").outcome == "promote"
    assert case.verdict("Production").outcome == "hold"


def test_a_new_major_version_is_not_even_let_into_staging(bare, bundles):
    verdict = evidence.measure(bare, bundles["2.0.0"]).verdict("Staging")
    assert verdict.outcome == "reject" and "same_major" in verdict.reasons[0]


def test_the_callers_checks_and_unmet_requirements_are_rules_more(site, bundles):
    case = evidence.measure(
        site, bundles["1.1.0"], rules="toy", requirements=["no-such-thing>=1"], validations={"golden rows": True}
    )
    verdict = case.verdict("Staging")
    assert verdict.outcome == "reject" and verdict.reasons == ["requirements: the caller's own check failed"]
    assert {"golden rows", "requirements"} <= {r.rule for r in verdict.results}


def test_a_model_that_is_new_here_is_measured_alone_and_waits_for_a_person(tmp_path, bundles):
    registry = memory_registry(tmp_path / "empty")
    with use_settings(registry.settings):
        evidence.pin(registry, "toy", bench(tmp_path))
        case = evidence.measure(registry, bundles["1.0.0"])
    assert case.champion is None and case.tier == "labelled"
    assert any("nothing to go back to" in r for r in case.verdict("Production").reasons)


def test_a_model_with_one_class_more_is_measured_beside_one_without_it(site, bundles, tmp_path):
    evidence.pin(site, "toy", bench(tmp_path))
    come_in(site, 6)
    case = evidence.measure(site, bundles["1.3.0"], rules="toy", recent=come_in(site))
    assert case.candidate.added_classes == ("Worm",)
    assert case.champion.evaluation.data_digest == case.candidate.evaluation.data_digest
    assert case.candidate.unlabelled.disagreement is not None and case.paired
    theirs = bundles["1.0.0"].probabilities(toy_traffic(2400, seed=77).features).argmax(axis=1)
    right = (theirs == toy_traffic(2400, seed=77).labels).mean()
    assert case.champion.evaluation.metric("accuracy") == pytest.approx(right)
    refused = case.verdict("Production")
    assert refused.outcome == "reject" and "schema_compatible" in refused.reasons[0]


def test_a_kept_rollback_target_that_was_edited_stops_everything(site, bundles):
    graph = site.cache.path(site.version("toy", "1.0.0").digest) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match="changed"):
        site.retained("toy", "1.0.0")
    with pytest.raises(BundleError, match="changed"):
        evidence.measure(site, bundles["1.1.0"], rules="toy")


def test_a_benchmark_that_is_gone_stops_everything(site, bundles):
    Path(site.resolve("toy", "production").held_out["path"]).unlink()
    with pytest.raises(NotFoundError, match="is gone"):
        evidence.measure(site, bundles["1.1.0"], rules="toy")


def test_a_registered_version_without_labels_is_judged_by_rules_that_need_none(bare, bundles):
    bare.register_model("toy", "1.1.0", bundles["1.1.0"].path)
    come_in(bare, 6)
    case = judging.gather(bare, "toy", "1.1.0", rules="auto_update_unlabelled")
    assert case.tier == "unlabelled" and case.verdict("Staging").outcome == "promote"
    with pytest.raises(NotFoundError, match="no held-out traffic"):
        judging.gather(bare, "toy", "1.1.0", rules="default")


# --- Recent traffic


def newest(registry, rows: int, given: Path | None = None) -> TrafficSet | None:
    from robustidps.monitoring.unlabelled import recent_traffic

    return recent_traffic(registry.settings, "toy", TOY, given, rows=rows)


def test_recent_traffic_is_the_newest_flows_whatever_the_files_are_called(bare):
    where = come_in(bare, 6, 7, 8, rows=400)
    (where / "day0008.parquet").rename(where / "a.parquet")
    found = newest(bare, 500)
    every = np.sort(np.concatenate([TrafficSet.read(p).time for p in where.iterdir()]))
    assert np.array_equal(found.time, every[-500:]) and not found.labelled.any()
    assert len(newest(bare, 5000)) == 1200


def test_flows_without_times_are_the_last_of_the_last_files(bare):
    where = come_in(bare, 6, 7, rows=400)
    for path in where.iterdir():
        traffic = TrafficSet.read(path)
        replace(traffic, time=np.full(len(traffic), np.nan)).write(path)
    last = TrafficSet.read(where / "day0007.parquet")
    assert np.array_equal(newest(bare, 300).features, last.features[-300:], equal_nan=True)
    come_in(bare, 8, rows=400)
    with pytest.raises(DatasetError, match="some flows have a time"):
        newest(bare, 1000)


def test_files_of_another_schema_are_passed_over_in_the_shared_folder_alone(bare):
    where = come_in(bare, 6, rows=400, folder="")
    replace(toy_traffic(50), schema=WIDER).write(where / "z.parquet")
    assert len(newest(bare, 1000)) == 400
    with pytest.raises(SchemaError, match="another schema"):
        newest(bare, 1000, where)
    assert newest(memory_registry(bare.settings.home.parent / "none"), 10) is None


# --- Requirements


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("numpy", None),
        ("numpy>=1.0", None),
        ("NumPy >= 1.0 ; python_version >= '3'", None),
        ("no-such-thing; python_version < '3'", None),
        ("numpy>=99", "is not met by"),
        ("numpy>=99", "pip install 'numpy>=99'"),
        ("no-such-thing>=1,<2", "is not installed: pip install 'no-such-thing<2,>=1'"),
        ("numpy[no-such-extra]", "asks for no-such-extra"),
        ("numpy @ https://evil.example/numpy.whl", "names an address"),
        ("git+https://evil.example/x", "is not a requirement"),
        ("--index-url=https://evil.example numpy", "is not a requirement"),
        ("numpy; rm -rf /", "is not a requirement"),
        ("numpy\n--hash=x", "is not a requirement"),
        ("", "is not a requirement"),
        ("x" * 5000, "is not installed"),
    ],
)
def test_what_is_not_met_is_named_with_the_command_and_nothing_else_is_run(requirement, words):
    said = evidence.unmet(["numpy>=1", requirement])
    assert (said == []) if words is None else (len(said) == 1 and words in said[0])
    assert all(line.isprintable() and len(line) < 400 for line in said)
