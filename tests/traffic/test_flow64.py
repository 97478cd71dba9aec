"""The default schema: what it may hold, and that its formulas are finite whatever comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustidps.traffic.flow64 import CLASSES, FLOW64, PROTOCOLS, STATISTICS, derive


def test_it_has_64_features_and_13_classes_with_benign_first():
    assert (FLOW64.input_dim, FLOW64.output_dim, len(STATISTICS)) == (64, 13, 57)
    assert FLOW64.benign == "Benign"
    assert CLASSES[4:6] == ("Recon-PortScan", "Recon-OSScan")


def test_nothing_that_names_a_testbed_is_a_feature():
    for name in FLOW64.feature_names:
        assert not any(part in name for part in ("ip", "port", "mac", "seen", "vlan", "_id"))


def test_the_digest_is_the_one_that_bundles_were_trained_under():
    # A change here makes every registered flow64 model unusable: it wants a new schema name, not an edit.
    assert FLOW64.digest == "44568a83e5a9c1023b7d9182e2cd98deca8f293000b3cb85c6ff1a5b7d3b1008"


def columns(n: int = 1, **values: object) -> dict[str, np.ndarray]:
    base = {name: np.zeros(n) for name in (*STATISTICS, "protocol")}
    return base | {k: np.asarray(v, float) for k, v in values.items()}


def feature(x: np.ndarray, name: str) -> float:
    return float(x[0, FLOW64.feature_names.index(name)])


def test_derived_features_follow_their_formulas():
    x = derive(
        columns(
            protocol=[6],
            bidirectional_duration_ms=[500],
            bidirectional_bytes=[1000],
            bidirectional_packets=[10],
            bidirectional_ack_packets=[9],
            dst2src_bytes=[250],
            bidirectional_mean_ps=[100],
            bidirectional_stddev_ps=[50],
            bidirectional_mean_piat_ms=[10],
            bidirectional_stddev_piat_ms=[20],
        )
    )
    expected = {
        "bytes_per_second": 2000, "packets_per_second": 20, "down_byte_share": 0.25, "unacknowledged_share": 0.1,
        "size_variation": 0.5, "gap_variation": 2.0, "protocol": 1,
    }  # fmt: skip
    assert {k: feature(x, k) for k in expected} == pytest.approx(expected)


def test_a_lone_syn_is_wholly_unacknowledged_and_a_datagram_is_not():
    syn = derive(columns(protocol=[6], bidirectional_packets=[1], bidirectional_syn_packets=[1]))
    datagram = derive(columns(protocol=[17], bidirectional_packets=[1]))
    assert feature(syn, "unacknowledged_share") == 1.0
    assert feature(datagram, "unacknowledged_share") == 0.0


@pytest.mark.parametrize(("number", "index"), [(6, 1), (17, 2), (1, 3), (58, 4), (47, 0), (255, 0)])
def test_protocols_outside_the_vocabulary_count_as_other(number, index):
    assert feature(derive(columns(protocol=[number])), "protocol") == index
    assert len(PROTOCOLS) == 4


@given(st.lists(st.one_of(st.floats(0, 1.8e19), st.just(0.0), st.just(float("nan"))), min_size=58, max_size=58))
def test_every_feature_is_finite_and_shares_stay_between_0_and_1(values):
    x = derive({name: np.array([v]) for name, v in zip((*STATISTICS, "protocol"), values, strict=True)})
    assert np.isfinite(x).all()
    for f, value in zip(FLOW64.features, x[0], strict=True):
        if f.kind == "ratio":
            assert 0.0 <= value <= 1.0


def test_a_missing_column_is_an_error():
    with pytest.raises(KeyError, match="protocol"):
        derive({name: np.zeros(1) for name in STATISTICS})
