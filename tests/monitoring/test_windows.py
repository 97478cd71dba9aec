"""From traffic to record and alarm: k of n, slow creep, the same window twice, and what a crash leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from robustidps.errors import DatasetError, IntegrityError, NotFoundError
from robustidps.evaluation.drift import DriftSettings
from robustidps.monitoring.alarm import alarming
from robustidps.monitoring.reviews import anchor_version
from robustidps.monitoring.window import Range
from robustidps.monitoring.windows import (
    Case,
    announced,
    enter,
    look,
    next_windows,
    position,
    unannounced,
    window,
    windows,
)
from robustidps.registry import state
from robustidps.testing.registry import APPROVE, memory_registry
from tests.monitoring.conftest import day


def alarms(registry) -> list[str]:
    return [d.evidence["window"] for d in registry.history("toy") if d.action == "alarm"]


@pytest.mark.parametrize(
    ("before", "drifted", "expected"),
    [
        ([], True, False),
        ([True, True], True, True),
        ([True, True], False, False),  # not the latest
        ([True, False, True], True, True),
        ([True, True, False, False, False], True, False),  # three, but not of the last five
        ([True, False, False, False, True], True, False),
    ],
)
def test_an_alarm_needs_three_of_the_last_five_and_the_latest(before, drifted, expected):
    assert alarming(before, drifted, DriftSettings()) is expected


def test_steady_traffic_raises_nothing_and_moved_traffic_does_on_the_third_day(registry, watch):
    assert [watch(i).window.status for i in range(2)] == ["steady", "steady"]
    entered = [watch(i, moved=1.5) for i in range(2, 5)]
    assert [e.window.status for e in entered] == ["drifted", "drifted", "alarm"]
    assert entered[-1].alarm.action == "alarm" and entered[-1].alarm.version == "1.0.0"
    assert alarms(registry) == [entered[-1].window.id]
    assert "2 of 8 columns moved away from the reference" in entered[-1].window.reasons[0]
    assert entered[-1].alarm.reasons == tuple(entered[-1].window.reasons)
    assert registry.verify("toy").ok


def test_slow_drift_that_no_reference_shows_is_far_from_the_anchor(registry, watch, tmp_path):
    """Each version's reference is new traffic: a step at a time, none of them is far from the one before."""
    from robustidps.bundle import open_bundle, write_bundle
    from robustidps.evaluation.reference import profile
    from robustidps.testing.linear import toy_bundle

    step = 0.2
    reasons = []
    for n in range(1, 6):
        version = f"2.{n}.0"
        trained_on = day(n, moved=n * step, rows=4_000)
        made = toy_bundle(tmp_path / "plain" / version, version=version, rows=600)
        reference = profile(trained_on, made.probabilities(trained_on.features))
        path = _with_reference(made.path, tmp_path / version, reference)
        assert open_bundle(path) and write_bundle
        registry.register_model("toy", version, path)
        registry.transition("toy", version, "Production", verdict=APPROVE)
        reasons.append(watch(10 + n, moved=(n + 1) * step).window.reasons)
    assert not any("the reference" in r for said in reasons for r in said)
    assert reasons[0] == [] and any("the early anchor" in r for r in reasons[-1])
    assert windows(registry, "toy")[-1].anchor == "1.0.0"


def _with_reference(bundle, folder, reference):
    """A copy of a bundle whose reference is another, sealed anew."""
    import json
    import shutil

    from robustidps.bundle.files import canonical, digest_of, read_folder, strict_json

    shutil.copytree(bundle, folder)
    (folder / "reference.json").write_bytes(canonical(reference))
    contents = read_folder(folder)
    metadata = strict_json(contents.files["metadata.json"], folder)
    metadata["checksum"] = digest_of(contents, metadata)
    (folder / "metadata.json").write_bytes(canonical(metadata))
    assert json.loads((folder / "metadata.json").read_text())["checksum"]
    return folder


def test_the_first_version_is_its_own_anchor_and_the_note_says_so(registry):
    case = Case.of(registry, "toy")
    assert case.anchor is None and "itself the first version" in case.notes[0]
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    later = Case.of(registry, "toy")
    assert (later.version, later.anchor_version) == ("1.1.0", "1.0.0") and later.anchor is not None
    assert anchor_version(registry.history("toy")) == "1.0.0"


def test_the_same_data_twice_is_one_window(registry, watch, tmp_path):
    first = watch(0)
    case = Case.of(registry, "toy")
    copy = day(0).write(tmp_path / "elsewhere" / "another-name.parquet")
    again = enter(registry, case, look(case, [copy], Range()).figures)
    assert again.window.id == first.window.id and first.fresh and not again.fresh
    assert len(windows(registry, "toy")) == 1
    assert next_windows(registry, "toy", tmp_path / "incoming", folder=tmp_path)[1] == []


def test_labels_that_come_back_are_added_to_their_window(registry, watch, tmp_path):
    first = watch(0)
    assert first.window.measured.labelled is None
    case = Case.of(registry, "toy")
    file = day(0, labelled=True).write(tmp_path / "labelled.parquet")
    again = enter(registry, case, look(case, [file], Range()).figures)
    assert again.fresh and again.window.id == first.window.id and len(windows(registry, "toy")) == 1
    labelled = window(registry, "toy", first.window.id).measured.labelled
    assert labelled.rows == 2_000 and labelled.accuracy.low < labelled.accuracy.value < labelled.accuracy.high


def test_a_lasting_alarm_is_told_when_it_begins_and_once_a_day(registry, watch):
    entered = [watch(i, moved=1.5) for i in range(5)]
    assert [e.window.alarm for e in entered] == [False, False, True, True, True]
    assert alarms(registry) == [e.window.id for e in entered[2:]]  # windows of a day each
    hourly = DriftSettings.model_validate({"windows": {"repeat_h": 48}})
    case = Case.of(registry, "toy")
    late = day(5, moved=1.5)
    path = late.write(registry.settings.home / "traffic" / "late.parquet")
    last = enter(registry, case, look(case, [path], Range()).figures, settings=hourly)
    assert last.window.alarm and last.alarm is None


def test_an_alarm_that_was_cut_short_before_its_record_is_recorded_next_time(registry, watch, monkeypatch):
    watch(0, moved=1.5), watch(1, moved=1.5)
    with monkeypatch.context() as patch:
        patch.setattr(type(registry), "record", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            watch(2, moved=1.5)
    row = windows(registry, "toy")[-1]
    assert row.alarm and alarms(registry) == []
    again = enter(registry, Case.of(registry, "toy"), row.measured)
    assert not again.fresh and alarms(registry) == [row.id]
    enter(registry, Case.of(registry, "toy"), row.measured)
    assert alarms(registry) == [row.id]


def test_an_event_is_owed_until_it_was_sent(registry, watch):
    for i in range(3):
        watch(i, moved=1.5)
    owed = unannounced(registry, "toy")
    assert [w.id for w in owed] == alarms(registry)
    announced(registry, owed[0])
    assert unannounced(registry, "toy") == []


def test_windows_are_numbered_by_version_and_the_newest_come_last(registry, watch):
    made = [watch(i).window for i in range(3)]
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    other = watch(3).window
    assert [position(registry, w) for w in [*made, other]] == [1, 2, 3, 1]
    assert [w.id for w in windows(registry, "toy", last=2)] == [made[-1].id, other.id]
    assert window(registry, "toy", "latest").id == other.id
    with pytest.raises(NotFoundError, match=f"there are: .*{other.id}"):
        window(registry, "toy", "20260101T000000Z-00000000")


def test_too_few_flows_wait_for_the_next_window(registry, tmp_path):
    case = Case.of(registry, "toy")
    file = day(0, rows=60).write(tmp_path / "few.parquet")
    assert look(case, [file], Range()) is None and windows(registry, "toy") == []


def test_more_alerts_than_in_the_first_window_are_drift(registry, watch):
    watch(0)
    row = windows(registry, "toy")[0]
    figures = row.measured
    flood = {"Flood": figures.rows - 10}
    many = figures.model_copy(update={"alerts": {"Flood": 3}, "digest": "0" * 64, "last": figures.last + 1})
    case = Case.of(registry, "toy")
    entered = enter(registry, case, many)
    assert any("alerts a flow moved" in r for r in entered.window.reasons)
    assert sum(flood.values()) > 0


def test_accuracy_below_validation_is_drift(registry, tmp_path):
    from dataclasses import replace

    case = Case.of(registry, "toy")
    file = day(0, labelled=True).write(tmp_path / "l.parquet")
    figures = look(case, [file], Range()).figures
    accuracy = figures.labelled.accuracy
    worse = replace(case, validation_accuracy=accuracy.high + 0.06)
    assert any(r.startswith("labels: accuracy") for r in enter(registry, worse, figures).window.reasons)


def test_without_a_version_in_production_there_is_nothing_to_compare_with(tmp_path, registry):
    empty = memory_registry(tmp_path / "other")
    with pytest.raises(NotFoundError):
        Case.of(empty, "toy")
    from robustidps.testing.linear import toy_bundle

    empty.register_model("toy", "1.0.0", toy_bundle(tmp_path / "b", rows=200).path)
    with pytest.raises(NotFoundError, match="no version is in the role production"):
        next_windows(empty, "toy", tmp_path, folder=tmp_path)


def test_flows_without_times_are_one_window_and_no_range_of_them_can_be_asked_for(registry, tmp_path):
    from robustidps.testing.traffic import TOY
    from robustidps.traffic.trafficset import TrafficSet

    timeless = TrafficSet.build(TOY, day(0).features).write(tmp_path / "in" / "t.parquet")
    files, found = next_windows(registry, "toy", tmp_path / "in", folder=tmp_path)
    assert files == [timeless] and found == [Range()]
    case = Case.of(registry, "toy")
    entered = enter(registry, case, look(case, files, found[0]).figures)
    assert datetime.now(UTC) - entered.window.ended < timedelta(minutes=1)
    assert not enter(registry, case, look(case, files, found[0]).figures).fresh
    with pytest.raises(DatasetError, match="no time"):
        next_windows(registry, "toy", tmp_path / "in", folder=tmp_path, length_s=60.0)


@pytest.mark.parametrize("edit", [{"id": "../../../etc"}, {"figures": "no json"}, {"ended": "yesterday"}])
def test_an_edited_row_is_noticed_before_it_names_a_folder(registry, watch, edit):
    watch(0)
    with registry.store.write() as connection:
        connection.execute(sa.update(state.drift_window).values(**edit))
    with pytest.raises(IntegrityError, match="edited"):
        windows(registry, "toy")
