"""Truth meets flows: a plain, slow join is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustidps.errors import SchemaError
from robustidps.traffic.capture import CaptureReport, FlowTable
from robustidps.traffic.flow64 import CLASSES
from robustidps.traffic.labels import Truth, join
from robustidps.traffic.trafficset import UNLABELLED

REPORT = CaptureReport("made", "pcap", 0, 0, 0, False)
END = tuple[str, int]


def flows_of(*rows: tuple[END, END, int, float]) -> FlowTable:
    """Rows of (source, destination, protocol, first seen)."""
    return FlowTable(
        features=np.zeros((len(rows), 64), np.float32),
        first_seen=np.array([r[3] for r in rows], float),
        src_ip=np.array([r[0][0] for r in rows], object),
        dst_ip=np.array([r[1][0] for r in rows], object),
        src_port=np.array([r[0][1] for r in rows], np.int32),
        dst_port=np.array([r[1][1] for r in rows], np.int32),
        protocol=np.array([r[2] for r in rows], np.int16),
        report=REPORT,
    )


def truth_of(*rows: tuple[END, END, int, float, float, str, str]) -> Truth:
    """Rows of (one end, other end, protocol, start, end, label, campaign)."""
    column = lambda i: np.array([r[i] for r in rows], object)  # noqa: E731
    return Truth(
        src_ip=np.array([r[0][0] for r in rows], object),
        dst_ip=np.array([r[1][0] for r in rows], object),
        src_port=np.array([r[0][1] for r in rows], int),
        dst_port=np.array([r[1][1] for r in rows], int),
        protocol=column(2),
        start=column(3).astype(float),
        end=column(4).astype(float),
        label=column(5),
        campaign=column(6),
        tool=np.array([f"tool of {r[6]}" for r in rows], object),
    )


A, B, C = ("10.0.0.1", 1000), ("10.0.0.2", 80), ("10.0.0.3", 80)
SCAN = "Recon-PortScan"


def test_a_flow_is_matched_in_either_direction():
    labels, campaign, tool, report = join(
        flows_of((A, B, 6, 5.0), (B, A, 6, 6.0)), truth_of((A, B, 6, 0, 10, SCAN, "scan-1"))
    )
    assert labels.tolist() == [CLASSES.index(SCAN)] * 2
    assert campaign.tolist() == ["scan-1"] * 2
    assert tool.tolist() == ["tool of scan-1"] * 2
    assert (report.matched, report.unmatched, report.ambiguous, report.unused) == (2, 0, 0, 0)


@pytest.mark.parametrize("flow", [(A, C, 6, 5.0), (A, B, 17, 5.0), (A, (B[0], 81), 6, 5.0), (A, B, 6, 15.0)])
def test_other_ends_another_protocol_or_another_time_is_no_match(flow):
    labels, campaign, _, report = join(flows_of(flow), truth_of((A, B, 6, 0, 10, SCAN, "scan-1")))
    assert (labels.tolist(), campaign.tolist()) == ([UNLABELLED], [""])
    assert (report.unmatched, report.unused) == (1, 1)


def test_ports_that_are_swapped_between_hosts_are_other_ends():
    _, _, _, report = join(
        flows_of((("10.0.0.1", 80), ("10.0.0.2", 1000), 6, 5.0)), truth_of((A, B, 6, 0, 10, SCAN, "scan-1"))
    )
    assert report.unmatched == 1


def test_truths_that_disagree_leave_the_row_unlabelled_and_counted():
    labels, _, _, report = join(
        flows_of((A, B, 6, 5.0)), truth_of((A, B, 6, 0, 10, SCAN, "scan-1"), (A, B, 6, 4, 6, "Benign", "web"))
    )
    assert labels.tolist() == [UNLABELLED]
    assert (report.matched, report.ambiguous) == (0, 1)


def test_the_tolerance_reaches_out_only_where_nothing_fits_exactly():
    truth = truth_of((A, B, 6, 0, 10, SCAN, "scan-1"), (A, B, 6, 10.5, 20, "Benign", "web"))
    labels, _, _, report = join(flows_of((A, B, 6, 9.9), (A, B, 6, 20.4)), truth, tolerance_s=1.0)
    assert labels.tolist() == [CLASSES.index(SCAN), 0]
    assert report.ambiguous == 0


def test_an_unknown_label_is_an_error():
    with pytest.raises(SchemaError, match="Recon-Teleport"):
        join(flows_of((A, B, 6, 5.0)), truth_of((A, B, 6, 0, 10, "Recon-Teleport", "x")))


@settings(deadline=None)
@given(st.data())
def test_the_fast_join_agrees_with_the_plain_one(data):
    ends = st.sampled_from([A, B, C])
    moments = st.integers(0, 24).map(lambda i: 1.7e9 + i / 2)
    flows = data.draw(st.lists(st.tuples(ends, ends, st.sampled_from([6, 17]), moments), min_size=1, max_size=20))
    truths = data.draw(
        st.lists(
            st.tuples(ends, ends, st.sampled_from([6, 17]), moments, st.integers(0, 8),
                      st.sampled_from([SCAN, "Benign"]), st.sampled_from(["one", "two"])),
            min_size=1, max_size=12,
        )
    )  # fmt: skip
    truths = [(a, b, p, s, s + length / 2, label, campaign) for a, b, p, s, length, label, campaign in truths]
    tolerance = data.draw(st.sampled_from([0.0, 0.4, 1.0]))
    labels, campaign, _, report = join(flows_of(*flows), truth_of(*truths), tolerance_s=tolerance)

    unsure = 0
    for row, (a, b, protocol, when) in enumerate(flows):
        fits: set[tuple[str, str]] = set()
        for slack in (min(0.002, tolerance), tolerance):
            fits = {
                (label, name)
                for c, d, p, start, end, label, name in truths
                if {a, b} == {c, d} and p == protocol and start - slack <= when <= end + slack
            }
            if fits:
                break
        expected = fits.pop() if len(fits) == 1 else None
        unsure += bool(fits) and expected is None
        assert labels[row] == (CLASSES.index(expected[0]) if expected else UNLABELLED)
        assert campaign[row] == (expected[1] if expected else "")
    assert report.ambiguous == unsure
    assert report.matched + report.unmatched + report.ambiguous == len(flows)
