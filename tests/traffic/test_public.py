"""Public sets: what is recognised as which release, what is dropped and said, and what only looks like one of them."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from robustidps.errors import DatasetError
from robustidps.testing.published import CORRECTED, IOT_A, IOT_B, ORIGINAL, UNSW, row, write
from robustidps.traffic import loaders
from robustidps.traffic.loaders import public
from robustidps.traffic.loaders.public import PublicSet
from robustidps.traffic.trafficset import UNLABELLED

TRAIN, TEST = "UNSW_NB15_training-set", "UNSW_NB15_testing-set"
WEB = "Web Attack \x96 XSS"


def unsw_rows(n: int = 4) -> list[str]:
    labels = [("Normal", 0), ("Generic", 1), (" Fuzzers ", 1), ("Backdoors", 1)]
    return [row(UNSW, i, attack_cat=label, label=attack) for i in range(n) for label, attack in labels]


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch):
    """Makes the published files of a release as long as a test can write: `shrunk(name, release, rows by part)`."""

    def shrink(name: str, which: str, rows: dict[str, int]) -> None:
        config = PublicSet(name).config
        old = config.releases[which]
        files = {part: old.files[part].model_copy(update={"rows": n}) for part, n in rows.items()}
        new = old.model_copy(update={"files": old.files | files})
        changed = config.model_copy(update={"releases": config.releases | {which: new}})
        original = public._config
        monkeypatch.setattr(public, "_config", lambda wanted: changed if wanted == name else original(wanted))

    return shrink


# --- UNSW-NB15


def test_the_files_of_unsw_nb15_are_told_by_their_rows_since_their_names_circulate_swapped(tmp_path):
    header = "\ufeff" + UNSW
    write(tmp_path / f"{TRAIN}.csv", header, unsw_rows(), rows_in_all=82_332)
    write(tmp_path / f"{TEST}.csv", header, unsw_rows(), rows_in_all=175_341)
    found = loaders.identify(tmp_path)
    assert found.loader == "unsw_nb15" and found.release == "UNSW-NB15"
    assert {p: f.stem for p, f in found.parts.items()} == {"train": TEST, "test": TRAIN}
    assert len(found.notes) == 2 and "circulate swapped" in found.notes[0]
    test = loaders.load("unsw_nb15", tmp_path, part="test")
    assert len(test) == 82_332
    assert test.provenance["release"] == f"UNSW-NB15 {TEST}"
    assert set(test.provenance["dropped_columns"]) == {"id", "label", "sttl", "ct_state_ttl"}
    with pytest.raises(DatasetError, match=r"holds several parts"):
        loaders.load("unsw_nb15", tmp_path)


def test_labels_of_unsw_nb15_are_compared_without_blanks_and_case_and_service_may_be_a_dash(tmp_path):
    traffic = loaders.load("unsw_nb15", write(tmp_path / "some.csv", UNSW, unsw_rows(1)))
    assert [traffic.schema.classes[i] for i in traffic.labels] == ["Normal", "Generic", "Fuzzers", "Backdoor"]
    assert traffic.tool.tolist() == ["Normal", "Generic", "Fuzzers", "Backdoors"]
    assert traffic.provenance["values_outside_the_vocabulary"] == {}
    assert not {"id", "label", "attack_cat"} & set(traffic.schema.feature_names)


def test_a_selection_of_rows_loads_and_is_called_a_sample(tmp_path):
    write(tmp_path / f"{TRAIN}.csv", UNSW, unsw_rows())
    found = loaders.identify(tmp_path)
    assert found.release == "a sample of UNSW-NB15: 16 rows in 1 file"
    assert loaders.load("unsw_nb15", tmp_path).provenance["release"] == found.release
    with pytest.raises(DatasetError, match=rf"has no {TRAIN}"):
        loaders.load("unsw_nb15", tmp_path, part="train")


def test_a_published_file_beside_a_cut_one_is_refused(tmp_path, shrunk):
    shrunk("unsw_nb15", "partition", {"train": 16, "test": 8})
    write(tmp_path / f"{TRAIN}.csv", UNSW, unsw_rows(4))
    write(tmp_path / f"{TEST}.csv", UNSW, unsw_rows(2)[:7])
    with pytest.raises(DatasetError, match=rf"{TEST}.csv: fits no published file.* it has 7 rows.*{TEST} 8"):
        loaders.identify(tmp_path)


def test_the_same_rows_under_two_names_are_refused(tmp_path, shrunk):
    one = write(tmp_path / "one.csv", UNSW, unsw_rows())
    (tmp_path / "two.csv.gz").write_bytes(gzip.compress(one.read_bytes()))
    with pytest.raises(DatasetError, match=r"the same file twice"):
        loaders.identify(tmp_path)
    shrunk("unsw_nb15", "partition", {"train": 16})
    write(tmp_path / "two.csv", UNSW, unsw_rows()[::-1])
    (tmp_path / "two.csv.gz").unlink()
    with pytest.raises(DatasetError, match=r"both have the 16 rows of train"):
        loaders.identify(tmp_path)


def test_the_averaged_copy_of_unsw_nb15_is_refused_with_the_reason(tmp_path):
    path = write(tmp_path / f"{TRAIN}.csv", UNSW, [*unsw_rows(), row(UNSW, 1, spkts=2.5, attack_cat="DoS")])
    for look in (loaders.identify, lambda p: loaders.load("unsw_nb15", p)):
        with pytest.raises(DatasetError, match=r"row 17, column 'spkts': 2\.5 is no count.*rows were averaged"):
            look(path)
    far = write(tmp_path / "far.csv", UNSW, [*unsw_rows() * 100, row(UNSW, 1, ct_srv_dst=0.5, attack_cat="DoS")])
    with pytest.raises(DatasetError, match=r"row 1601, column 'ct_srv_dst': 0.5 is no count"):
        loaders.load("unsw_nb15", far)


RAW = ",".join(["59.166.0.0", "1390", "149.171.126.6", "53", "udp", "CON", *["0"] * 43])
KDD99 = "0,tcp,http,SF," + ",".join(["0"] * 37) + ",normal."
FLOWS = "Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol, Timestamp, Flow Duration, Label"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RAW + "\n", "is a raw file of UNSW-NB15.*use UNSW_NB15_training-set.csv"),
        ("srcip,sport,dstip,dsport,proto\n", "is a raw file of UNSW-NB15 with a header"),
        (KDD99 + "\n", "is KDD Cup 1999"),
        (FLOWS + "\n", "GeneratedLabelledFlows.*use MachineLearningCVE"),
        ("Dst Port,Protocol,Timestamp,Tot Fwd Pkts,Tot Bwd Pkts\n", "CSE-CIC-IDS2018"),
        ("IPV4_SRC_ADDR,L4_SRC_PORT,IPV4_DST_ADDR,IN_BYTES,OUT_BYTES\n", "NetFlow version"),
        (UNSW.replace("spkts,", "") + "\n1\n", "nearly UNSW-NB15, but not: column 'spkts' missing"),
        (IOT_B.replace("IGMP", "IGRP") + "\n1\n", "release B.*'IGMP' missing; column 'IGRP' unknown"),
        (UNSW + ",label\n1\n", "'label' twice"),
    ],
)
def test_a_look_alike_is_refused_with_what_it_is(tmp_path, content, words):
    (tmp_path / "some.csv").write_text(content)
    for path in (tmp_path, tmp_path / "some.csv"):
        with pytest.raises(DatasetError, match=words):
            loaders.identify(path)
    assert loaders.recognise(tmp_path) is None


def test_a_look_alike_beside_the_real_thing_is_left_aside_and_said(tmp_path):
    write(tmp_path / f"{TRAIN}.csv", UNSW, unsw_rows())
    (tmp_path / "UNSW-NB15_1.csv").write_text(RAW + "\n")
    (tmp_path / "NUSW-NB15_features.csv").write_text("No.,Name,Type,Description\n1,srcip,nominal,Source\n")
    found = loaders.identify(tmp_path)
    assert list(found.parts) == [f"{TRAIN}.csv"]
    assert list(found.unused) == ["UNSW-NB15_1.csv"]


def test_strangers_are_no_release_of_anything(tmp_path):
    (tmp_path / "some.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match=r"is no release of a data set that we know"):
        loaders.identify(tmp_path)
    with pytest.raises(DatasetError, match=r"holds no file of UNSW-NB15 \(known: UNSW-NB15"):
        loaders.load("unsw_nb15", tmp_path)


# --- CIC-IDS2017

DAY = {
    "monday": "Monday-WorkingHours.pcap_ISCX.csv",
    "wednesday": "Wednesday-workingHours.pcap_ISCX.csv",
    "friday-ddos": "Friday-WorkingHours-Afternoon-DDos.pcap_ISCX.csv",
}


def original(folder: Path, part: str, labels: list[str], encoding: str = "utf-8", **values: object) -> Path:
    return write(
        folder / DAY[part], ORIGINAL, [row(ORIGINAL, i, label=x, **values) for i, x in enumerate(labels)], encoding
    )


def test_a_day_of_cic_ids2017_with_the_published_number_of_rows_is_recognised_whatever_its_name(tmp_path):
    write(tmp_path / "x.csv", ORIGINAL, [row(ORIGINAL, 1, label="BENIGN")], rows_in_all=170_366)
    found = loaders.identify(tmp_path)
    assert found.release == "CIC-IDS2017, original release (MachineLearningCVE), 1 of 8 files"
    assert list(found.parts) == ["thursday-morning"]


def test_days_of_cic_ids2017_become_times_sources_and_campaigns(tmp_path, shrunk):
    shrunk("cic_ids2017", "original", {"monday": 3, "wednesday": 4, "friday-ddos": 5})
    original(tmp_path, "monday", ["BENIGN"] * 3)
    original(tmp_path, "wednesday", ["BENIGN", "DoS Hulk", "DoS Hulk", "Heartbleed"])
    original(tmp_path, "friday-ddos", ["BENIGN", "DDoS", "DDoS", "DDoS", "DDoS"])
    traffic = loaders.load("cic_ids2017", tmp_path)
    assert traffic.schema.input_dim == 68
    assert sorted(set(traffic.time.tolist())) == [1499040000, 1499212800, 1499385600]  # 3, 5 and 7 July 2017
    assert len(set(traffic.source.tolist())) == 3
    assert {c.split(": ")[1] for c in traffic.campaign} == {"BENIGN", "DoS Hulk", "Heartbleed", "DDoS"}
    assert traffic.class_counts() | {"Benign": 5, "DoS": 7} == traffic.class_counts()
    facts = traffic.provenance
    assert facts["release"].endswith("3 of 8 files") and facts["rows"] == 12 and len(facts["files"]) == 3
    assert {"Destination Port", "Fwd Header Length.1", "Bwd URG Flags"} <= set(facts["dropped_columns"])
    assert len(loaders.load("cic_ids2017", tmp_path, part="monday")) == 3


@pytest.mark.parametrize(
    ("dash", "encoding"),
    [("\x96", "latin-1"), ("\ufffd", "utf-8"), ("\u2013", "utf-8"), ("?", "ascii"), ("-", "ascii")],
)
def test_the_dash_of_web_attacks_is_read_in_every_encoding_it_circulates_in(tmp_path, dash, encoding):
    labels = [f"Web Attack {dash} {x}" for x in ("Brute Force", "XSS", "Sql Injection")] + ["bENIGN"]
    traffic = loaders.load("cic_ids2017", original(tmp_path, "monday", labels, encoding))
    assert [traffic.schema.classes[i] for i in traffic.labels] == ["WebAttack"] * 3 + ["Benign"]
    assert traffic.tool.tolist()[:3] == ["Web Attack - Brute Force", "Web Attack - XSS", "Web Attack - Sql Injection"]


def test_a_copy_without_the_port_and_with_merged_labels_has_the_same_schema(tmp_path):
    full = loaders.load("cic_ids2017", original(tmp_path, "monday", ["BENIGN", "DoS Hulk"]))
    header = ORIGINAL.replace(" Destination Port,", "").replace("Segment Size, Fwd Header Length,", "Segment Size,")
    header = ",".join(name.strip() for name in header.split(","))
    labels = ("WebAttack", "BruteForce", "DoS", "Bot", "PortScan", "Infiltration")
    rows = [row(header, i, label=x) for i, x in enumerate(labels)]
    sample = loaders.load("cic_ids2017", write(tmp_path / "CICIDS2017_sample.csv", header, rows))
    assert sample.schema.digest == full.schema.digest
    assert len(set(sample.labels.tolist())) == 6
    assert "a sample of CIC-IDS2017, original release" in sample.provenance["release"]
    assert not sample.has_time and not sample.campaign.any()
    assert "Destination Port" not in sample.provenance["dropped_columns"]


def test_rows_without_a_finite_rate_are_left_out_and_counted_by_column_and_class(tmp_path):
    rows = [row(ORIGINAL, i, label="BENIGN") for i in range(297)]
    rows += [row(ORIGINAL, 1, label="PortScan", **{"flow_bytes_s": cell}) for cell in ("Infinity", "NaN", "")]
    traffic = loaders.load("cic_ids2017", write(tmp_path / "some.csv", ORIGINAL, rows))
    assert len(traffic) == 297
    assert np.isfinite(traffic.features).all()
    assert traffic.provenance["dropped_rows"] == {"no finite number in 'Flow Bytes/s'": {"PortScan": 3}}
    assert traffic.provenance["rows"] == 300
    worse = write(tmp_path / "worse.csv", ORIGINAL, [*rows[:290], *rows[-3:]])
    with pytest.raises(DatasetError, match=r"3 of 293 rows are unusable \(1\.0 %, at most 1 % is.*'Flow Bytes/s': 3"):
        loaders.load("cic_ids2017", worse)


CORRECTED_ROWS = [
    row(CORRECTED, i, timestamp=f"2017-07-07 {9 + i:02d}:30:00.123456", label=label)
    for i, label in enumerate(("BENIGN", "BENIGN", "Botnet", "Botnet - Attempted", "Infiltration - Portscan"))
]


def test_the_corrected_release_has_times_and_leaves_attempts_unlabelled(tmp_path):
    path = write(tmp_path / "friday.csv", CORRECTED, CORRECTED_ROWS)
    traffic = loaders.load("cic_ids2017", path)
    assert traffic.time[0] == 1499419800.123456
    assert traffic.labels.tolist() == [0, 0, 5, UNLABELLED, 2]
    assert traffic.campaign.tolist() == [
        "friday: 09 h",
        "friday: 10 h",
        "friday: Botnet",
        "",
        "friday: Infiltration - Portscan",
    ]
    assert {"id", "Flow ID", "Src IP", "Src Port", "Dst IP", "Dst Port", "Attempted Category"} == set(
        traffic.provenance["dropped_columns"]
    )
    assert "Timestamp" not in traffic.schema.feature_names
    assert any("Attempted" in note for note in traffic.provenance["notes"])


def test_a_folder_that_mixes_releases_is_refused_and_names_the_files_of_each(tmp_path):
    original(tmp_path, "monday", ["BENIGN"])
    write(tmp_path / "friday.csv", CORRECTED, CORRECTED_ROWS)
    with pytest.raises(DatasetError, match=r"mixes releases.*original.*Monday-W.*corrected.*friday\.csv"):
        loaders.identify(tmp_path)
    assert len(loaders.load("cic_ids2017", tmp_path / "friday.csv")) == 5


def test_an_archive_is_read_as_it_is_distributed(tmp_path, shrunk):
    shrunk("cic_ids2017", "original", {"monday": 3, "wednesday": 4})
    folder = tmp_path / "MachineLearningCVE"
    original(folder, "monday", ["BENIGN"] * 3)
    original(folder, "wednesday", ["BENIGN", "DoS Hulk", WEB, "Heartbleed"], "latin-1")
    with zipfile.ZipFile(tmp_path / "MachineLearningCSV.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"MachineLearningCVE/{path.name}")
    expected = loaders.load("cic_ids2017", folder)
    assert loaders.load("cic_ids2017", tmp_path / "MachineLearningCSV.zip").digest == expected.digest
    with pytest.raises(DatasetError, match=r"the same file twice"):
        loaders.load("cic_ids2017", tmp_path)


@pytest.mark.parametrize("name", ["friday.csv.gz", "CICIDS2017_improved.zip"])
def test_a_half_downloaded_file_in_a_folder_is_said_to_be_one(tmp_path, name):
    write(tmp_path / "monday.csv", CORRECTED, CORRECTED_ROWS)
    whole = tmp_path / name
    text = (CORRECTED + "\n" + "\n".join(CORRECTED_ROWS * 200)).encode()
    if name.endswith(".gz"):
        whole.write_bytes(gzip.compress(text))
    else:
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("friday.csv", text)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(DatasetError, match=r"interrupted download looks like this") as caught:
        loaders.identify(tmp_path)
    assert name in str(caught.value)


# --- CIC-IoT-2023


@pytest.mark.parametrize(("header", "features"), [(IOT_A, 46), (IOT_B, 39)])
def test_both_releases_of_ciciot2023_have_seven_families_whatever_the_case_of_labels(tmp_path, header, features):
    words = PublicSet("ciciot2023").config.releases["b"].table.words.values()
    assert len(words) == 35  # 33 attacks, and benign by two names
    write(tmp_path / "Merged01.csv", header, [row(header, i, label=w.upper()) for i, w in enumerate(words)])
    traffic = loaders.load("ciciot2023", tmp_path)
    assert traffic.schema.input_dim == features
    assert all(traffic.class_counts().values()) and len(traffic.schema.classes) == 8
    assert not traffic.campaign.any() and not traffic.has_time
    assert "sample" in traffic.provenance["release"]
    assert any("no capture is named" in note for note in traffic.provenance["notes"])


def test_a_raw_file_is_labelled_by_its_name_which_is_its_capture(tmp_path):
    header = IOT_B.removesuffix(",Label")
    files = [
        ("DDoS-HTTP_Flood", "DDoS-HTTP_Flood-"),
        ("DDoS-ICMP_Flood", "DDoS-ICMP_Flood12"),
        ("Benign_Final", "BenignTraffic3"),
        ("SqlInjection", "SqlInjection"),
    ]
    for i, (folder, name) in enumerate(files):
        write(tmp_path / "CSV" / folder / f"{name}.pcap.csv", header, [row(header, i), row(header, 9)])
    traffic = loaders.load("ciciot2023", tmp_path)
    by_capture = dict(zip(traffic.campaign.tolist(), traffic.tool.tolist(), strict=True))
    assert by_capture == {
        "DDoS-HTTP_Flood-": "DDoS-HTTP_Flood",
        "DDoS-ICMP_Flood12": "DDoS-ICMP_Flood",
        "BenignTraffic3": "BenignTraffic",
        "SqlInjection": "SqlInjection",
    }
    assert traffic.class_counts() | {"Benign": 2, "DDoS": 4, "Web-based": 2} == traffic.class_counts()
    write(tmp_path / "Merged01.csv", header, [row(header, 1)])
    with pytest.raises(DatasetError, match=r"has no label column, and its name is no label"):
        loaders.load("ciciot2023", tmp_path)


def test_a_limit_spreads_evenly_over_each_file_and_is_said(tmp_path):
    write(tmp_path / "Merged01.csv", IOT_B, [row(IOT_B, i, label="XSS") for i in range(1000)])
    write(tmp_path / "Merged02.csv", IOT_B, [row(IOT_B, i, label="BENIGN") for i in range(50)])
    traffic = loaders.load("ciciot2023", tmp_path, limit=100)
    assert traffic.features[:100, 0].tolist() == list(range(0, 1000, 10))
    assert len(traffic) == 150
    assert [f.get("every") for f in traffic.provenance["files"]] == [10, None]


def test_parquet_copies_are_recognised_too(tmp_path):
    import pyarrow.csv as arrow_csv
    import pyarrow.parquet as pq

    path = write(tmp_path / "Merged01.csv", IOT_B, [row(IOT_B, i, label="XSS") for i in range(7)])
    expected = loaders.load("ciciot2023", path)
    pq.write_table(arrow_csv.read_csv(path), tmp_path / "Merged01.parquet")
    path.unlink()
    assert loaders.identify(tmp_path / "Merged01.parquet").rows == {"Merged01.parquet": 7}
    assert loaders.load("ciciot2023", tmp_path).digest == expected.digest


@pytest.mark.real
def test_the_real_sample_of_ciciot2023_is_called_what_it_is(shared_data):
    found = loaders.identify(shared_data / "ciciot2023")
    assert found.release.startswith("a sample of CIC-IoT-2023, release B") and "capped per class" in found.release
    assert set(found.dropped) == {"label_binary"}
    traffic = loaders.load("ciciot2023", shared_data / "ciciot2023")
    assert list(traffic.class_counts().values()) == [2000] * 8 + [1252, 2000]
    assert traffic.schema.input_dim == 39
    assert np.isfinite(traffic.features).all()
    assert set(traffic.features[:, 37].astype(int)) <= set(range(1, 101))  # Number: packets in a window


def test_every_release_says_what_a_stranger_needs():
    for name in loaders.PUBLIC:
        config = PublicSet(name).config
        assert config.defects and config.citation and config.licence
        for release in config.releases.values():
            assert release.table.classes and len(release.table.label_index) >= len(release.table.classes)
            assert all(reason for reason in release.table.drop.values())
