"""Tables in: each fault is one error with file, row and column, and what was dropped is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustidps.errors import ConfigError, DatasetError, InputError, NotFoundError
from robustidps.traffic import loaders
from robustidps.traffic.loaders import base, table
from robustidps.traffic.loaders.public import PublicSet
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

SPEC = {
    "name": "toy",
    "features": [
        {"name": "bytes", "kind": "count", "transform": "log"},
        {"name": "rate", "missing": "median"},
        {"name": "proto", "kind": "categorical", "transform": "onehot", "vocabulary": ["tcp", "udp"]},
    ],
    "classes": ["Benign", "Attack"],
    "labels": {"Benign": ["normal", "benign"], "Attack": ["dos", "scan"]},
    "label": "label",
    "time": {"column": "when", "format": "iso"},
    "campaign": "run",
    "tool": "label",
    "drop": {"id": "a row number"},
}
GOOD = """id,bytes,rate,proto,label,when,run
1,100,0.5,tcp,normal,2026-01-05T00:00:00,r1
2,200,,udp,DoS,2026-01-05T00:00:01+00:00,r1
3,300, 1.5 ,gre,scan,2026-01-05T01:00:02+01:00,
"""


@pytest.fixture
def load(tmp_path: Path):
    """Writes `text` and the schema and loads them."""

    def run(text: str | bytes = GOOD, name: str = "flows.csv", **changes: object) -> TrafficSet:
        path, schema = tmp_path / name, tmp_path / "schema.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        schema.write_text(yaml.safe_dump(SPEC | changes))
        return loaders.load("table", path, schema=schema)

    return run


def test_a_table_becomes_traffic_as_its_schema_says(load):
    traffic = load()
    assert traffic.schema.name == "toy"
    assert traffic.features[:, 0].tolist() == [100, 200, 300]
    assert np.isnan(traffic.features[1, 1])
    assert traffic.features[:, 2].tolist() == [1, 2, 0]
    assert traffic.labels.tolist() == [0, 1, 1]
    assert traffic.time.tolist() == [1767571200.0, 1767571201.0, 1767571202.0]
    assert traffic.campaign.tolist() == ["r1", "r1", ""]
    assert traffic.tool.tolist() == ["normal", "DoS", "scan"]
    assert traffic.provenance["dropped_columns"] == {"id": "a row number"}
    assert traffic.provenance["values_outside_the_vocabulary"] == {"proto": 1}
    json.dumps(traffic.provenance)


@pytest.mark.parametrize("name", ["flows.csv.gz", "no-ending"])
def test_gzip_is_unpacked_whatever_the_name(load, name):
    assert load(gzip.compress(GOOD.encode()), name).digest == load().digest


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("proto", '"proto"'),
        GOOD.replace("id,b", " id , b"),
    ],
    ids=["crlf", "bom", "no last line end", "quotes", "blanks"],
)
def test_the_ways_of_writing_csv_change_nothing(load, content):
    assert load(content).digest == load().digest


def test_parquet_and_csv_give_the_same(load, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": [1, 2, 3], "bytes": [100, 200, 300], "rate": [0.5, None, 1.5], "proto": ["tcp", "udp", "gre"],
        "label": ["normal", "DoS", "scan"], "when": pa.array([1767571200, 1767571201, 1767571202], pa.timestamp("s")),
        "run": ["r1", "r1", None],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "flows.parquet")
    expected = load()
    traffic = loaders.load("table", tmp_path / "flows.parquet", schema=tmp_path / "schema.yaml")
    assert traffic.digest == expected.digest
    assert traffic.campaign.tolist() == expected.campaign.tolist()


def test_a_json_schema_file_does_as_well(load, tmp_path):
    expected = load()
    (tmp_path / "schema.json").write_text(json.dumps(SPEC))
    assert loaders.load("table", tmp_path / "flows.csv", schema=tmp_path / "schema.json").digest == expected.digest


def test_traffic_that_we_wrote_needs_no_schema(load, tmp_path):
    traffic = load()
    path = traffic.write(tmp_path / "ours.parquet")
    found = loaders.recognise(path)
    assert found is not None
    assert found.loader == "table"
    assert loaders.load("table", path).digest == traffic.digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("200,,", "many,,", r"row 2, column 'bytes': 'many' is not a number"),
        ("200,,", ",,", r"row 2, column 'bytes': no value"),
        ("200,,", "NaN,,", r"row 2, column 'bytes': no value"),
        ("300, 1.5", "300,Infinity", r"row 3, column 'rate': inf is not a finite number"),
        ("300, 1.5", "300,-inf", r"row 3, column 'rate': -inf is not"),
        ("300, 1.5", "300,1e39", r"row 3, column 'rate': 1e\+39 is not"),
        ("DoS", "dose", r"row 2, column 'label': 'dose' is no known label \(perhaps 'dos'\?\)"),
        ("2026-01-05T00:00:01+00:00", "yesterday", r"row 2, column 'when': 'yesterday' is no ISO 8601 time"),
        ("id,bytes", "id,byte", r"column 'bytes' is missing \(is 'byte' perhaps 'bytes'\?\)"),
        ("id,bytes,rate", "id,bytes,bytes", r"column 'bytes' stands there twice"),
        ("id,", "ident,", r"column 'ident' is not in the schema"),
        ("2,200,,udp", "2,200,,udp,more", r"row 2 has 8 fields, expected 7"),
        ("2,200,,udp,", "2,200,,", r"row 2 has 6 fields, expected 7"),
    ],
)
def test_a_fault_is_named_with_file_row_and_column(load, tmp_path, old, new, words):
    assert old in GOOD
    with pytest.raises(DatasetError, match=words) as caught:
        load(GOOD.replace(old, new))
    assert str(tmp_path / "flows.csv") in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_the_row_in_an_error_is_right_far_into_the_file(load, monkeypatch):
    monkeypatch.setattr(table, "_BLOCK", 4096)
    lines = GOOD.splitlines()
    content = "\n".join([lines[0]] + [lines[1]] * 5000 + [lines[2].replace("200", "2OO")] + [lines[3]] * 50) + "\n"
    with pytest.raises(DatasetError, match="row 5001, column 'bytes': '2OO'"):
        load(content)
    with pytest.raises(DatasetError, match="row 5001 has 8 fields"):
        load(content.replace("2OO", "200,0"))


def test_markup_in_names_and_cells_never_reaches_the_message(load):
    for content in (GOOD.replace("id,", "\x1b[2Jid,"), GOOD.replace("DoS", "\x1b[2Jx"), GOOD.replace("200", "\x1b[2J")):
        with pytest.raises(DatasetError) as caught:
            load(content)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"id,bytes,rate,proto,label,when,run\n", "has no row"),
        (gzip.compress(GOOD.encode())[:-20], "compression is broken"),
        (b"\x1f\x8b\x08 nonsense", "compression is broken|can't be read"),
        (b"\xff\xfe\x00i\x00d", "not utf-8 text"),
        (GOOD.encode().replace(b"udp", b"\xff\xfe"), "not utf-8 text|not readable"),
        (b"PAR1 and then nothing", "not readable as Parquet"),
        (b"\x00" * 100, "missing"),
    ],
)
def test_what_is_no_table_is_said_to_be_none(load, content, words):
    with pytest.raises(DatasetError, match=words):
        load(content)


def test_a_small_file_that_unpacks_to_a_large_one_is_stopped(load, monkeypatch):
    monkeypatch.setattr(base, "LARGEST", 100_000)
    monkeypatch.setattr(base.opened.__wrapped__, "__kwdefaults__", {"ceiling": 100_000, "progress": base.silent})
    with pytest.raises(DatasetError, match="unpacks to more than 100000 bytes"):
        load(gzip.compress(GOOD.encode() + b"9" * 10_000_000))


def test_missing_files_and_folders_are_refused(load, tmp_path):
    load()
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DatasetError, match=r"no such file|is not a file"):
            loaders.load("table", path, schema=tmp_path / "schema.yaml")
    with pytest.raises(DatasetError, match="schema file"):
        loaders.load("table", tmp_path / "flows.csv")


def test_extra_columns_may_be_ignored_and_are_reported(load):
    traffic = load(GOOD.replace("id,", "ident,"), extra="ignore")
    assert traffic.provenance["dropped_columns"] == {"ident": "not in the schema"}  # there is no id to drop


def test_rows_without_a_label_are_unlabelled(load):
    assert load(GOOD.replace("DoS", "")).labels.tolist() == [0, UNLABELLED, 1]
    assert not load(label=None, labels={}, tool=None, drop={"id": "", "label": "unused"}).labelled.any()


def test_epoch_times_are_read(load):
    content = "\n".join(
        f"{line.rsplit(',', 2)[0]},{when},r"
        for line, when in zip(GOOD.splitlines(), ("when", 1000, 2000, 3500), strict=True)
    )
    content = content.replace(",when,r", ",when,run")
    assert load(content, time={"column": "when", "format": "unix_ms"}).time.tolist() == [1.0, 2.0, 3.5]
    assert load(content, time={"column": "when"}).time.tolist() == [1000, 2000, 3500]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"header": False}, "columns"),
        ({"labels": {"Nobody": ["x"]}}, "Nobody"),
        ({"labels": {"Benign": ["x"], "Attack": ["X"]}}, "two classes"),
        ({"classes": ["Benign", "Attack", "Attack"]}, "two classes"),
        ({"extra": "guess"}, "extra"),
    ],
)
def test_a_wrong_schema_file_is_a_clear_error(load, changes, words):
    with pytest.raises(ConfigError, match=words):
        load(**changes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, len(GOOD)))
def test_no_bytes_break_the_reading_of_a_table(load, noise, at):
    content = GOOD.encode()
    try:
        load(content[:at] + noise + content[at:])
    except InputError as error:
        assert "flows.csv" in str(error)


def test_an_unknown_data_set_is_named_with_those_there_are(tmp_path):
    with pytest.raises(NotFoundError, match="nsl_kdd"):
        loaders.load("kdd99", tmp_path)


def test_every_loader_has_the_one_shape():
    for name, loader in loaders.known().items():
        assert loader.name == name
        described = loader.describe()
        json.dumps(described)
        assert {"name", "title", "parts", "card"} <= set(described)


# --- NSL-KDD


def test_nsl_kdd_maps_39_attacks_to_4_classes():
    spec = PublicSet("nsl_kdd").config.releases["official"].table
    assert len(spec.label_index) == 40
    assert [len(spec.labels[c]) for c in spec.classes] == [1, 11, 6, 14, 8]
    assert (spec.traffic_schema.input_dim, len(spec.columns)) == (40, 43)
    assert not {"difficulty", "label", "num_outbound_cmds"} & set(spec.traffic_schema.feature_names)


def test_a_file_that_is_no_release_of_nsl_kdd_is_refused_with_the_row_counts(tmp_path):
    row = "0,tcp,http,SF," + ",".join(["0"] * 37) + ",normal,20\n"
    names = ",".join(PublicSet("nsl_kdd").config.releases["official"].table.columns)
    for content, words in [
        (row * 3, "it has 3 rows.*KDDTrain\\+ 125973"),
        ("1,2,3\n", "holds no file of NSL-KDD"),
        (names + "\n" + row, "with a header that somebody added"),
        (row.replace(",20\n", "\n"), "is KDD Cup 1999"),
    ]:
        (tmp_path / "KDDTrain+.txt").write_text(content)
        with pytest.raises(DatasetError, match=words):
            loaders.load("nsl_kdd", tmp_path, part="train")
        assert loaders.recognise(tmp_path) is None


def test_nsl_kdd_is_asked_for_by_part(tmp_path):
    with pytest.raises(DatasetError, match="holds no file of NSL-KDD"):
        loaders.load("nsl_kdd", tmp_path, part="train")
    with pytest.raises(DatasetError, match="no such file or folder"):
        loaders.load("nsl_kdd", tmp_path / "none", part="train")


@pytest.mark.real
def test_the_real_nsl_kdd_is_what_the_card_says(shared_data):
    folder = shared_data / "nsl_kdd"
    found = loaders.recognise(folder)
    assert found is not None
    assert set(found.parts) == {"train", "test", "test-21"}
    assert not found.notes
    train, test = (loaders.load("nsl_kdd", folder, part=part) for part in ("train", "test"))
    assert list(test.class_counts().values()) == [9711, 7460, 2421, 2752, 200]
    assert list(train.class_counts().values()) == [67343, 45927, 11656, 995, 52]
    assert len(set(test.tool) - set(train.tool)) == 17
    assert np.isfinite(train.features).all()
    assert train.provenance["release"] == "NSL-KDD KDDTrain+"
    assert set(train.provenance["dropped_columns"]) == {"difficulty", "num_outbound_cmds"}
    with pytest.raises(DatasetError, match="no part 'dev'"):
        loaders.load("nsl_kdd", folder, part="dev")
    with pytest.raises(DatasetError, match="holds several parts"):
        loaders.load("nsl_kdd", folder)
    with pytest.raises(DatasetError, match="is test, not train"):
        loaders.load("nsl_kdd", found.parts["test"], part="train")


@pytest.mark.real
def test_a_real_csv_loads_with_a_schema_written_for_it(shared_data):
    path = shared_data / "ciciot2023" / "CICIoT2023_sample_19252.csv.gz"
    with gzip.open(path, "rt") as file:
        names = file.readline().strip().split(",")
    spec = loaders.TableSpec(
        name="iot",
        features=tuple({"name": n, "missing": "zero"} for n in names if not n.casefold().startswith("label")),
        classes=("Benign", "Attack"),
        drop={n: "a label" for n in names if n.casefold().startswith("label")},
    )
    traffic = loaders.load("table", path, schema=spec)
    assert len(traffic) == 19_252
    assert not traffic.labelled.any()


def test_the_schema_in_the_documentation_loads_the_documented_table(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    schema = tmp_path / "documented.yaml"
    (documented,) = (b for part in text.split("```yaml\n")[1:] if "features:" in (b := part.split("```")[0]))
    schema.write_text(documented)
    (tmp_path / "flows.csv").write_text(GOOD.replace("scan", "portscan"))
    traffic = loaders.load("table", tmp_path / "flows.csv", schema=schema)
    assert traffic.labels.tolist() == [0, 1, 1]


def test_every_data_set_configuration_has_its_card():
    root = Path(__file__).parents[2]
    for path in (root / "configs" / "datasets").glob("*.yaml"):
        card = yaml.safe_load(path.read_text())["card"]
        assert path.stem in loaders.known()
        assert card in {p.relative_to(root).as_posix() for p in (root / "data").glob("*.md")}
        assert Path(card).name in (root / "data" / "README.md").read_text()
