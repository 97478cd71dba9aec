"""What is loaded for a data set's name and how it is split; a fingerprint that changes with whatever changes that."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

from robustidps.errors import ConfigError, DatasetError
from robustidps.testing.published import ORIGINAL, UNSW, row, write
from robustidps.traffic.loaders import public
from robustidps.traffic.loaders.public import PublicSet
from robustidps.traffic.prepare import dataset_config, evaded_dataset, fingerprint, load_dataset, split_dataset


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


# --- Public sets: their own way to be split, and what is done where a copy lacks what it needs


def unsw(folder: Path, name: str, n: int) -> None:
    classes = PublicSet("unsw_nb15").config.releases["partition"].table.classes
    write(folder / name, UNSW, [row(UNSW, i, attack_cat=classes[i % 10]) for i in range(n)])


def test_unsw_nb15_with_one_of_its_two_files_is_split_by_unique_row_and_says_so(home, tmp_path: Path):
    unsw(tmp_path, "UNSW_NB15_training-set.csv", 200)
    parts = load_dataset("unsw-nb15", folder=home, data_dir=tmp_path)
    split = split_dataset(parts, dataset_config("unsw-nb15"))
    assert set(parts) == {"all"}
    assert split.report.notes[0] == "not official: one of the two official files is missing"
    assert split.report.kind == "rows"
    assert len(split.train) + len(split.validation) + len(split.test) == 200


def test_unsw_nb15_with_both_files_is_split_officially(home, tmp_path: Path, monkeypatch):
    config = PublicSet("unsw_nb15").config
    old = config.releases["partition"]
    files = {p: old.files[p].model_copy(update={"rows": n}) for p, n in (("train", 200), ("test", 100))}
    shrunk = config.model_copy(update={"releases": {"partition": old.model_copy(update={"files": files})}})
    monkeypatch.setattr(public, "_config", lambda name: shrunk)
    unsw(tmp_path, "a.csv", 200)
    unsw(tmp_path, "b.csv", 100)
    split = split_dataset(load_dataset("unsw-nb15", folder=home, data_dir=tmp_path), dataset_config("unsw-nb15"))
    assert split.report.kind == "official" and len(split.test) == 100


def test_cic_ids2017_is_split_by_day_and_a_sample_without_days_by_row(home, tmp_path: Path):
    days = {
        "Monday-WorkingHours": ["BENIGN"],
        "Wednesday-workingHours": ["BENIGN", "DoS Hulk"],
        "Thursday-WorkingHours-Morning-WebAttacks": ["BENIGN"],
        "Friday-WorkingHours-Afternoon-DDos": ["BENIGN", "DDoS", "PortScan"],
    }
    for number, (stem, labels) in enumerate(days.items()):
        rows = [row(ORIGINAL, 100 * number + i, label=labels[i % len(labels)]) for i in range(30)]
        write(tmp_path / "days" / f"{stem}.pcap_ISCX.csv", ORIGINAL, rows)
    config = dataset_config("cic-ids2017")
    split = split_dataset(load_dataset("cic-ids2017", folder=home, data_dir=tmp_path / "days"), config)
    assert split.report.kind == "temporal"
    assert [p["first"][:10] for p in split.report.parts.values()] == ["2017-07-03", "2017-07-06", "2017-07-07"]
    assert split.report.parts["train"]["last"][:10] == "2017-07-05"
    assert "PortScan in test but not in train" in split.report.notes

    write(tmp_path / "sample.csv", ORIGINAL, [row(ORIGINAL, i, label=("BENIGN", "Bot")[i % 2]) for i in range(100)])
    split = split_dataset(load_dataset("cic-ids2017", folder=home, data_dir=tmp_path / "sample.csv"), config)
    assert split.report.notes[0] == "not temporal: rows have neither time nor day"
    assert split.report.kind == "rows"


@pytest.mark.real
def test_the_real_sample_of_ciciot2023_is_split_by_unique_row_and_says_what_that_is_worth(home, shared_data: Path):
    parts = load_dataset("ciciot2023", folder=home, data_dir=shared_data / "ciciot2023")
    split = split_dataset(parts, dataset_config("ciciot2023"))
    assert "no capture is named" in split.report.notes[0]
    test = set(map(bytes, split.test.features))
    assert not test & set(map(bytes, split.train.features))
    assert all(split.test.class_counts().values())


def test_a_file_within_a_folder_of_a_public_set_is_noticed(home, tmp_path: Path):
    (tmp_path / "DDoS-ICMP_Flood").mkdir()
    found = [fingerprint("ciciot2023", data_dir=tmp_path)]
    (tmp_path / "DDoS-ICMP_Flood" / "a.csv").write_text("x")
    found.append(fingerprint("ciciot2023", data_dir=tmp_path))
    (tmp_path / "one.csv").write_text("x")
    found.append(fingerprint("ciciot2023", data_dir=tmp_path / "one.csv"))
    (tmp_path / "one.csv").write_text("xy")
    found.append(fingerprint("ciciot2023", data_dir=tmp_path / "one.csv"))
    assert len(set(found)) == 4


# --- Attacks altered to evade, where the packets are there


def test_attacks_of_the_held_out_part_are_altered_where_there_are_packets_and_nowhere_else(home: Path, tmp_path: Path):
    import numpy as np

    pytest.importorskip("nfstream")
    config = home / "configs" / "training" / "tiny.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("source: simulator\nsimulator: {days: 3, packets_per_day: 2500}\ntrain: 0.4\nvalidation: 0.3\n")
    cut = split_dataset(load_dataset("tiny", folder=tmp_path), dataset_config("tiny"))
    evaded = evaded_dataset("tiny", cut.test, folder=tmp_path)
    assert evaded is not None
    plain = evaded.select(evaded.source == "unchanged")
    attacks = cut.test.select(cut.test.labels > 0)
    assert sorted(f.tobytes() for f in plain.features) == sorted(f.tobytes() for f in attacks.features)
    assert set(evaded.campaign) == set(attacks.campaign) and len(np.unique(evaded.source)) > 5
    assert evaded_dataset("nsl-kdd", cut.test, folder=tmp_path) is None
    assert evaded_dataset("tiny", cut.test.select(cut.test.labels == 0), folder=tmp_path) is None
