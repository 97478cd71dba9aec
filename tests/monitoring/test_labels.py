"""Labels that came back: what may be trained on, and when it isn't enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from robustidps.errors import ConfigError, DatasetError, IntegrityError, NotFoundError, RefusedError
from robustidps.monitoring.labels import Retraining, gather, may_retrain, retraining, started
from robustidps.testing.traffic import TOY
from robustidps.traffic.trafficset import TrafficSet
from tests.monitoring.conftest import DAY, day


def config(folder: Path, **how) -> Retraining:
    given = {"sources": [{"name": "soc", "folder": folder}], "quarantine_days": 0, "min_per_class": 50}
    return Retraining.model_validate(given | how)


def labelled(number: int = 20, rows: int = 3_000) -> TrafficSet:
    traffic = day(number, rows=rows, labelled=True)
    # Ten days, so that parts can be cut by time; a campaign is of a day.
    time = traffic.time + (np.arange(rows) % 10) * DAY
    return TrafficSet.build(TOY, traffic.features, traffic.labels, time=time)


def test_labels_are_cut_by_time_and_the_latest_judge(registry, tmp_path):
    labelled().write(tmp_path / "a.parquet")
    found = gather(registry, "toy", config(tmp_path))
    split = found.split
    assert found.shortage is None and split.train.time.max() < split.validation.time.min()
    assert split.validation.time.max() < split.test.time.min()
    assert found.facts["sources"]["soc"]["flows"] == 3_000


def test_files_wait_in_quarantine_by_a_time_that_no_program_can_set(registry, tmp_path):
    import os

    file = labelled().write(tmp_path / "a.parquet")
    os.utime(file, (0, 0))  # as if it were from 1970
    early = gather(registry, "toy", config(tmp_path, quarantine_days=7))
    assert early.split is None and "out of quarantine" in early.shortage
    assert early.facts["sources"]["soc"] == {"files": 0, "files in quarantine": 1, "flows": 0}
    later = gather(registry, "toy", config(tmp_path, quarantine_days=7), now=datetime.now(UTC) + timedelta(days=8))
    assert later.split is not None


def test_flows_of_the_fixed_evaluation_set_are_never_trained_on(registry, tmp_path):
    fixed = day(-1, labelled=True)  # what `toy` is judged on
    wrong = np.where(fixed.labels == 0, 1, 0)  # whatever they are labelled
    mixed = TrafficSet.build(TOY, fixed.features, wrong, time=fixed.time + 22 * DAY)
    TrafficSet.concat([labelled(), mixed]).write(tmp_path / "a.parquet")
    found = gather(registry, "toy", config(tmp_path))
    rows = {row.tobytes() for row in fixed.features}
    for part in (found.split.train, found.split.validation, found.split.test):
        assert not any(row.tobytes() in rows for row in part.features)
    assert found.facts["sources"]["soc"]["flows of the fixed evaluation set, left out"] == len(fixed)


def test_without_the_fixed_evaluation_set_nothing_can_be_kept_out_so_nothing_is_trained(registry, tmp_path):
    labelled().write(tmp_path / "a.parquet")
    path = registry.settings.home.parent / "x"
    held_out = Path(registry.version("toy", "1.0.0").held_out["path"])
    content = held_out.read_bytes()
    try:
        held_out.rename(path)
        with pytest.raises(NotFoundError, match="held-out traffic is gone"):
            gather(registry, "toy", config(tmp_path))
        day(3, labelled=True).write(held_out)
        with pytest.raises(IntegrityError, match="changed"):
            gather(registry, "toy", config(tmp_path))
    finally:
        held_out.write_bytes(content)


def test_no_source_gives_more_than_its_cap(registry, tmp_path):
    labelled(20).write(tmp_path / "one" / "a.parquet")
    labelled(40).write(tmp_path / "two" / "b.parquet")
    sources = [{"name": n, "folder": tmp_path / n} for n in ("one", "two")]
    facts = gather(registry, "toy", config(tmp_path, sources=sources, cap_per_source=1_000)).facts
    assert [facts["sources"][n]["flows"] for n in ("one", "two")] == [1_000, 1_000]
    assert facts["sources"]["one"]["flows above the cap, left out"] == 2_000


def test_flows_that_sources_label_differently_are_left_out(registry, tmp_path):
    traffic = labelled()
    other = TrafficSet.build(TOY, traffic.features[:500], (traffic.labels[:500] + 1) % 3, time=traffic.time[:500])
    traffic.write(tmp_path / "one" / "a.parquet")
    other.write(tmp_path / "two" / "b.parquet")
    sources = [{"name": n, "folder": tmp_path / n} for n in ("one", "two")]
    found = gather(registry, "toy", config(tmp_path, sources=sources))
    assert found.facts["flows labelled differently, left out"] == 1_000
    assert sum(found.facts["flows per class"].values()) == 2_500


def test_too_few_of_a_class_is_said_and_nothing_is_cut(registry, tmp_path):
    labelled().write(tmp_path / "a.parquet")
    short = gather(registry, "toy", config(tmp_path, classes=["Never-Seen"]))
    assert short.split is None and "too few labelled flows of Never-Seen (0)" in short.shortage
    assert "Benign" in gather(registry, "toy", config(tmp_path, min_per_class=100_000)).shortage
    with pytest.raises(DatasetError, match="no class of toy"):
        gather(registry, "toy", config(tmp_path, classes=["Teapot"]))


def test_a_folder_that_is_gone_and_a_typo_in_the_configuration_are_named(registry, tmp_path):
    with pytest.raises(NotFoundError, match="source of labels"):
        gather(registry, "toy", config(tmp_path / "gone"))
    assert retraining("toy") is None
    file = registry.settings.home / "configs" / "retraining" / "toy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("sources: []\n")
    with pytest.raises(ConfigError, match="sources"):
        retraining("toy")


def test_a_model_is_retrained_after_an_alarm_on_record_and_once_in_so_many_days(registry, watch, tmp_path):
    rows = [watch(i, moved=1.5).window for i in range(3)]
    known = config(tmp_path)
    with pytest.raises(RefusedError, match="no alarm of this window"):
        may_retrain(registry.history("toy"), rows[0].id, known)
    assert "no source of labels" in may_retrain(registry.history("toy"), rows[-1].id, None)
    assert may_retrain(registry.history("toy"), rows[-1].id, known) is None
    started(registry, "toy", "1.0.0", rows[-1].id, None, "too few")
    assert may_retrain(registry.history("toy"), rows[-1].id, known) is None  # a remark is no retraining
    labelled().write(tmp_path / "a.parquet")
    started(registry, "toy", "1.0.0", rows[-1].id, gather(registry, "toy", known), "")
    assert "at most once in 7 days" in may_retrain(registry.history("toy"), rows[-1].id, known)
    later = datetime.now(UTC) + timedelta(days=8)
    assert may_retrain(registry.history("toy"), rows[-1].id, known, later) is None
