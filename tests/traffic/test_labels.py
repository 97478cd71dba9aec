"""Truth meets flows: a plain, slow join is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustidps.errors import SchemaError
from robustidps.traffic.capture import CaptureReport, FlowTable
from robustidps.traffic.flow64 import CLASSES
from robustidps.traffic.labels import ANY, Truth, join, match
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


def test_a_truth_may_leave_hosts_ports_and_protocol_open():
    truth = truth_of((("10.0.0.1", ANY), ("10.0.0.2", ANY), ANY, 0, 10, SCAN, "scan-1"))
    labels, _, _, report = join(flows_of((A, B, 6, 5.0), (B, A, 17, 6.0), (A, C, 6, 5.0), (A, B, 6, 15.0)), truth)
    assert (labels >= 0).tolist() == [True, True, False, False]
    assert (report.matched, report.unused) == (2, 0)


def test_an_open_truth_that_contradicts_a_full_one_leaves_the_row_unlabelled():
    truth = truth_of((A, B, 6, 0, 10, SCAN, "scan-1"), (("", ANY), ("10.0.0.2", 80), 6, 0, 10, "Benign", "web"))
    labels, _, _, report = join(flows_of((A, B, 6, 5.0), (C, B, 6, 5.0)), truth)
    assert labels.tolist() == [UNLABELLED, 0]
    assert (report.ambiguous, report.unused) == (1, 0)


def test_flows_of_a_truth_are_counted():
    truth = truth_of((A, B, 6, 0, 10, SCAN, "x"), (A, C, 6, 0, 10, SCAN, "x"))
    assert match(flows_of((A, B, 6, 5.0), (B, A, 6, 6.0), (A, B, 6, 10.5)), truth).held.tolist() == [3, 0]


def test_thousands_of_truths_over_one_another_are_one_answer_if_they_agree():
    truth = truth_of(*((A, B, 6, i, 1e6, SCAN, "x") for i in range(3_000)))
    labels, _, _, report = join(flows_of(*((A, B, 6, 3000.0 + i) for i in range(3_000))), truth)
    assert (labels == CLASSES.index(SCAN)).all()
    assert report.unused == 0


@settings(deadline=None)
@given(st.data())
def test_the_fast_join_agrees_with_the_plain_one(data):
    ends = st.sampled_from([A, B, C])
    wild = st.one_of(ends, st.sampled_from([("", ANY), ("10.0.0.1", ANY), ("", 80), ("10.0.0.3", ANY)]))
    moments = st.integers(0, 24).map(lambda i: 1.7e9 + i / 2)
    flows = data.draw(st.lists(st.tuples(ends, ends, st.sampled_from([6, 17]), moments), min_size=1, max_size=20))
    truths = data.draw(
        st.lists(
            st.tuples(wild, wild, st.sampled_from([6, 17, ANY]), moments, st.integers(0, 8),
                      st.sampled_from([SCAN, "Benign"]), st.sampled_from(["one", "two"])),
            min_size=1, max_size=12,
        )
    )  # fmt: skip
    truths = [(a, b, p, s, s + length / 2, label, campaign) for a, b, p, s, length, label, campaign in truths]
    tolerance = data.draw(st.sampled_from([0.0, 0.4, 1.0]))
    labels, campaign, _, report = join(flows_of(*flows), truth_of(*truths), tolerance_s=tolerance)

    def within(end, pattern):
        return pattern[0] in ("", end[0]) and pattern[1] in (ANY, end[1])

    unsure = 0
    used: set[int] = set()
    for row, (a, b, protocol, when) in enumerate(flows):
        fits: set[tuple[str, str]] = set()
        for slack in (min(0.002, tolerance), tolerance):
            holding = [
                i
                for i, (c, d, p, start, end, *_) in enumerate(truths)
                if ((within(a, c) and within(b, d)) or (within(b, c) and within(a, d)))
                and p in (ANY, protocol)
                and start - slack <= when <= end + slack
            ]
            used.update(holding)
            fits = {truths[i][5:] for i in holding}
            if fits:
                break
        expected = fits.pop() if len(fits) == 1 else None
        unsure += bool(fits) and expected is None
        assert labels[row] == (CLASSES.index(expected[0]) if expected else UNLABELLED)
        assert campaign[row] == (expected[1] if expected else "")
    assert report.ambiguous == unsure
    assert report.unused == len(truths) - len(used)
    assert report.matched + report.unmatched + report.ambiguous == len(flows)


@settings(deadline=None)
@given(st.data())
def test_the_order_of_flows_and_truths_makes_no_difference(data):
    ends, wild = st.sampled_from([A, B, C]), st.sampled_from([A, B, ("", ANY), ("10.0.0.3", ANY)])
    moments = st.integers(0, 12).map(float)
    flows = data.draw(st.lists(st.tuples(ends, ends, st.just(6), moments), min_size=1, max_size=12))
    truths = data.draw(
        st.lists(st.tuples(wild, wild, st.just(6), moments, st.sampled_from([SCAN, "Benign"]), st.sampled_from("xy")),
                 min_size=1, max_size=10)
    )  # fmt: skip
    truths = [(a, b, p, s, s + 4, label, campaign) for a, b, p, s, label, campaign in truths]
    labels, campaign, tool, report = join(flows_of(*flows), truth_of(*truths))
    shuffled = data.draw(st.permutations(range(len(flows))))
    again = join(flows_of(*(flows[i] for i in shuffled)), truth_of(*data.draw(st.permutations(truths))))
    assert again[0].tolist() == labels[shuffled].tolist()
    assert again[1].tolist() == campaign[shuffled].tolist()
    assert again[2].tolist() == tool[shuffled].tolist()
    assert again[3] == report
