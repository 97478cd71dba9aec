"""A data set's fingerprint changes with whatever changes what is loaded, so that no stale result is used for it."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

from robustidps.errors import ConfigError, DatasetError
from robustidps.traffic.prepare import fingerprint


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
