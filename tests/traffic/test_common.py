"""Common features: the same flow described by different makers comes out the same, as far as they let it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustidps.errors import ConfigError, SchemaError
from robustidps.settings import CONFIGS, load_yaml
from robustidps.traffic.common import FEATURES, Common, Mapping, mapping_of
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.loaders import load
from robustidps.traffic.schema import Feature, TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

UNSW = ("dur", "proto", "service", "spkts", "dpkts", "sbytes", "dbytes", "rate", "smean")
CIC = (
    "Destination Port", "Flow Duration", "Total Fwd Packets", "Total Backward Packets", "Total Length of Fwd Packets",
    "Total Length of Bwd Packets", "Min Packet Length", "Max Packet Length", "Packet Length Mean", "Packet Length Std",
    "Flow IAT Mean",
)  # fmt: skip
CORRECTED = (
    "Protocol", "Flow Duration", "Total Fwd Packet", "Total Bwd packets", "Total Length of Fwd Packet",
    "Total Length of Bwd Packet", "Packet Length Min", "Packet Length Max", "Packet Length Mean", "Packet Length Std",
    "Flow IAT Mean",
)  # fmt: skip
IOT = ("Header_Length", "Protocol Type", "Rate", "Tot sum", "Min", "Max", "AVG", "Std", "IAT", "Number")
NSL = ("duration", "protocol_type", "src_bytes", "dst_bytes", "count")
WORDS = {"proto": ("udp", "arp", "tcp", "icmp", "ipv6-icmp"), "protocol_type": ("icmp", "tcp", "udp")}


def schema(name: str, columns: tuple[str, ...]) -> TrafficSchema:
    """A schema with these columns and more classes than two."""
    features = [
        Feature(name=c, kind="categorical", transform="onehot", vocabulary=WORDS[c]) if c in WORDS else Feature(name=c)
        for c in columns
    ]
    return TrafficSchema(name=name, features=tuple(features), classes=("Normal", "DoS", "Probe"))


def rows(of: TrafficSchema, *given: dict[str, float], **options: object) -> TrafficSet:
    """A row for each mapping of column to value; every other column is 7."""
    x = np.full((len(given), of.input_dim), 7.0)
    for i, row in enumerate(given):
        for column, value in row.items():
            feature = of.features[of.feature_names.index(column)]
            x[i, of.feature_names.index(column)] = (
                feature.vocabulary.index(value) + 1 if isinstance(value, str) else value
            )
    return TrafficSet.build(of, x, options.pop("labels", [0] * len(given)), **options)


def values(traffic: TrafficSet, common: Common | None = None, row: int = 0) -> dict[str, float]:
    common = common or Common.between(traffic.schema)
    return dict(zip(common.names, common.project(traffic).features[row].tolist(), strict=True))


# One TCP exchange of 1.5 s: 4 packets and 100 bytes of payload up, 2 and 1000 down; no TCP options, Ethernet frames.
OURS = rows(
    FLOW64,
    {
        "protocol": "tcp", "bidirectional_duration_ms": 1500, "src2dst_packets": 4, "dst2src_packets": 2,
        "src2dst_bytes": 100 + 4 * 40, "dst2src_bytes": 1000 + 2 * 40, "bidirectional_min_ps": 40,
        "bidirectional_mean_ps": 1100 / 6 + 40, "bidirectional_stddev_ps": 250, "bidirectional_max_ps": 540,
        "bidirectional_mean_piat_ms": 300,
    },
)  # fmt: skip
ARGUS = rows(
    schema("unsw_nb15", UNSW),
    {"proto": "tcp", "dur": 1.5, "spkts": 4, "dpkts": 2, "sbytes": 100 + 4 * 54, "dbytes": 1000 + 2 * 54},
)
METER = rows(
    schema("cic", CIC),
    {
        "Flow Duration": 1.5e6, "Total Fwd Packets": 4, "Total Backward Packets": 2, "Total Length of Fwd Packets": 100,
        "Total Length of Bwd Packets": 1000, "Min Packet Length": 0, "Max Packet Length": 500,
        "Packet Length Mean": 1100 / 6, "Packet Length Std": 250, "Flow IAT Mean": 3e5,
    },
)  # fmt: skip
REPAIRED = rows(
    schema("cic2", CORRECTED),
    {
        "Protocol": 6, "Flow Duration": 1.5e6, "Total Fwd Packet": 4, "Total Bwd packets": 2,
        "Total Length of Fwd Packet": 100, "Total Length of Bwd Packet": 1000, "Packet Length Min": 0,
        "Packet Length Max": 500, "Packet Length Mean": 1100 / 6, "Packet Length Std": 250, "Flow IAT Mean": 3e5,
    },
)  # fmt: skip
KDD = rows(schema("nsl", NSL), {"duration": 1, "protocol_type": "tcp", "src_bytes": 100, "dst_bytes": 1000})
WINDOW = rows(
    schema("iot", IOT),
    {"Protocol Type": 6, "Min": 54, "Max": 554, "AVG": 1100 / 6 + 54, "Std": 250, "IAT": 0.3},
)


@pytest.mark.parametrize("other", [ARGUS, METER, REPAIRED, KDD, WINDOW], ids=lambda t: t.schema.name)
def test_one_flow_seen_by_two_makers_has_the_same_common_features(other):
    common = Common.between(FLOW64, other.schema)
    assert values(OURS, common) == pytest.approx(values(other, common), rel=1e-6)


def test_what_the_features_of_that_flow_are():
    found = values(OURS)
    assert list(found) == list(FEATURES)
    assert found == pytest.approx(
        {
            "protocol": 1, "duration": 1500, "packets_up": 4, "packets_down": 2, "bytes_up": 100, "bytes_down": 1000,
            "packets": 6, "bytes": 1100, "packets_per_second": 4, "bytes_per_second": 1100 / 1.5, "size_mean_up": 25,
            "size_mean_down": 500, "down_packet_share": 1 / 3, "down_byte_share": 10 / 11, "size_mean": 1100 / 6,
            "size_min": 0, "size_std": 250, "size_max": 500, "gap_mean": 300,
        }
    )  # fmt: skip


def test_a_clock_of_whole_seconds_makes_both_sides_coarse():
    common = Common.between(FLOW64, KDD.schema)
    assert common.resolution_ms == 1000
    assert values(OURS, common)["duration"] == 1000 and values(OURS, common)["bytes_per_second"] == 1100
    quick = rows(
        FLOW64, {"protocol": "udp", "bidirectional_duration_ms": 999, "src2dst_bytes": 38, "src2dst_packets": 1}
    )
    assert values(quick, common)["duration"] == 0 and values(quick, common)["bytes_up"] == 10


@pytest.mark.parametrize("ms", [1, 3, 7, 1001, 123457])
def test_rounding_down_keeps_a_whole_number_of_ticks(ms):
    traffic = rows(schema("unsw_nb15", UNSW), {"proto": "tcp", "dur": ms / 1000, "spkts": 1, "dpkts": 0})
    assert values(traffic, Common.between(FLOW64, traffic.schema))["duration"] == pytest.approx(ms)


@pytest.mark.parametrize(
    ("protocol", "index", "headers"),
    [("tcp", 1, 54), ("udp", 2, 42), ("icmp", 3, 34), ("ipv6-icmp", 3, 54), ("arp", 0, 34)],
)
def test_headers_are_taken_off_by_protocol_and_never_below_nothing(protocol, index, headers):
    traffic = rows(
        schema("unsw_nb15", UNSW),
        {"proto": protocol, "spkts": 2, "sbytes": 500, "dpkts": 1, "dbytes": 20},
    )
    found = values(traffic)
    assert (found["protocol"], found["bytes_up"], found["bytes_down"]) == (index, 500 - 2 * headers, 0)


def test_makers_odd_values_do_not_get_through():
    traffic = rows(
        schema("cic", CIC), {"Flow Duration": -1, "Flow IAT Mean": np.inf, "Total Length of Fwd Packets": np.nan}
    )
    found = values(traffic)
    assert found["duration"] == 0
    assert np.isnan(found["gap_mean"]) and np.isnan(found["bytes_up"]) and np.isnan(found["bytes_per_second"])
    assert Common.between(traffic.schema).schema.features[0].missing == "median"


def test_columns_are_known_whatever_their_case_and_blanks():
    shouted = schema("cic", tuple(f" {c.upper()}" for c in CIC))
    assert mapping_of(shouted) == mapping_of(METER.schema) != mapping_of(REPAIRED.schema)


def test_labels_become_two_classes_and_what_is_known_of_a_row_stays():
    traffic = rows(
        schema("nsl", NSL), {}, {}, {}, {}, labels=[0, 1, 2, UNLABELLED], tool=["normal", "smurf", "nmap", ""],
        campaign=list("abcd"), time=np.arange(4.0),
    )  # fmt: skip
    found = Common.between(traffic.schema).project(traffic)
    assert found.labels.tolist() == [0, 1, 1, UNLABELLED]
    assert found.tool.tolist() == ["normal", "smurf", "nmap", ""] and found.campaign.tolist() == list("abcd")
    assert found.has_time and found.provenance["common"] == {"of": "nsl", "mapping": "NSL-KDD"}


def test_sets_that_share_too_little_are_refused_with_what_they_share():
    with pytest.raises(SchemaError, match=r"share 1 common features \(protocol\)") as error:
        Common.between(KDD.schema, WINDOW.schema)
    assert "window" in error.value.remedy
    with pytest.raises(SchemaError, match="share 2"):
        Common.between(ARGUS.schema, WINDOW.schema)


def test_a_schema_without_a_mapping_is_refused_and_one_can_be_added(home: Path):
    mine = schema("mine", ("secs", "out", "in"))
    with pytest.raises(SchemaError, match="no mapping"):
        Common.between(mine)
    folder = home / "configs" / "common"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "{title: mine, rows: flow, sizes: payload, time: s, resolution_ms: 10, "
        "columns: {duration: secs, bytes_up: out, bytes_down: in}}"
    )
    assert Common.between(mine, KDD.schema).names == (
        "duration", "bytes_up", "bytes_down", "bytes", "bytes_per_second", "down_byte_share",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "sizes", "says"),
    [
        ("{durations: a}", "payload", "no quantity durations"),
        ("{bytes_up: a, packets_up: b}", "ip", "without a protocol"),
        ("{bytes_up: a, protocol: b}", "frame", "need packets_up"),
    ],
)
def test_a_mapping_that_can_not_be_right_is_refused(tmp_path: Path, columns, sizes, says):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{{title: mine, rows: flow, sizes: {sizes}, time: s, resolution_ms: 1, columns: {columns}}}")
    with pytest.raises(ConfigError, match=says):
        load_yaml(file, Mapping)


def test_a_set_that_lacks_a_feature_is_not_projected_on_it():
    with pytest.raises(SchemaError, match="has no packets_up"):
        Common.between(FLOW64, ARGUS.schema).project(KDD)


def test_every_mapping_shipped_fits_a_schema_of_these_tests():
    titles = {load_yaml(file, Mapping).title for file in (CONFIGS / "common").glob("*.yaml")}
    assert titles == {mapping_of(t.schema).title for t in (OURS, ARGUS, METER, REPAIRED, KDD, WINDOW)}


@pytest.mark.real
def test_the_real_nsl_kdd_has_its_mapping(shared_data: Path):
    traffic = load("nsl_kdd", shared_data / "nsl_kdd", part="test")
    common = Common.between(FLOW64, traffic.schema)
    found = common.project(traffic)
    assert found.class_counts() == {"Benign": 9711, "Attack": 12833}
    assert np.isfinite(found.features).all()
    seconds = traffic.features[:, traffic.schema.feature_names.index("duration")]
    assert (found.features[:, common.names.index("duration")] == 1000 * seconds).all()
