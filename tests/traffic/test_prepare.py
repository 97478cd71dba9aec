"""A data set's fingerprint changes with whatever changes what is loaded, so that no stale result is used for it; and
a data set can be split by campaign."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

from robustidps.errors import ConfigError, DatasetError
from robustidps.testing.traffic import toy_traffic
from robustidps.traffic.prepare import DatasetConfig, fingerprint, split_dataset


def test_another_content_under_the_same_name_is_noticed(home, tmp_path: Path):
    file, schema = tmp_path / "flows.csv", tmp_path / "schema.yaml"
    file.write_text("a,b\n1,2\n")
    schema.write_text("name: mine\n")
    found = [fingerprint(str(file), schema_file=schema)]
    assert fingerprint(str(file), schema_file=schema) == found[0]
    times = file.stat().st_atime, file.stat().st_mtime
    file.write_text("a,b\n1,3\n")
    os.utime(file, times)  # as large and as old as before
    found.append(fingerprint(str(file), schema_file=schema))
    schema.write_text("name: other\n")
    found.append(fingerprint(str(file), schema_file=schema))
    assert len(set(found)) == 3


def test_another_configuration_or_folder_is_noticed(home, tmp_path: Path):
    found = [fingerprint("nsl-kdd", data_dir=tmp_path), fingerprint("nsl-kdd"), fingerprint("simulated")]
    (tmp_path / "KDDTrain+.txt").write_text("x")
    found.append(fingerprint("nsl-kdd", data_dir=tmp_path))
    assert len(set(found)) == 4


def test_what_is_not_there_or_not_readable_is_named(home, tmp_path: Path):
    (tmp_path / "flows.csv").write_text("a\n")
    with pytest.raises(ConfigError, match="no data set"):
        fingerprint(str(tmp_path / "nothing.csv"))
    with pytest.raises(DatasetError, match=r"schema\.yaml"):
        fingerprint(str(tmp_path / "flows.csv"), schema_file=tmp_path / "schema.yaml")


def test_the_cached_task_takes_the_fingerprint_as_an_input(home):
    pytest.importorskip("prefect")
    from robustidps.tasks.traffic import load_traffic

    assert inspect.signature(load_traffic.fn).parameters["content"].default is inspect.Parameter.empty


def test_whole_campaigns_go_to_one_part_when_asked_for():
    """The way for captures of many years, each a campaign: a boundary in time would leave classes on one side."""
    cut = split_dataset({"all": toy_traffic()}, DatasetConfig(source="file"), split="campaign")
    campaigns = [set(part.campaign) for part in (cut.train, cut.validation, cut.test)]
    assert all(campaigns) and not campaigns[0] & campaigns[1] and not (campaigns[0] | campaigns[1]) & campaigns[2]
    assert cut.report.parameters["by"] == "campaign"
