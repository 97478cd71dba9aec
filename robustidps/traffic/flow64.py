"""`flow64`, the default schema: 64 features of a flow and 13 classes.

A flow is a two-way conversation of one address pair, port pair and protocol, as NFStream 6.6 cuts it (idle time-out
120 s, active time-out 30 min). "src" is whoever sent the first packet that was seen. The columns are

    57  NFStream's statistics: {bidirectional, src2dst, dst2src} x (duration_ms, packets, bytes; min, mean, stddev and
        max of the packet size `_ps` and of the gap between packets `_piat_ms`; packets with each TCP flag)
     1  protocol, by number in a short vocabulary
     6  ratios and rates of the above, each finite for any flow (`derive` has the formulas)

Sizes are those of the IP packet, header included (NFStream's `accounting_mode=1`): the link layer's share differs
between an Ethernet tap, a cooked capture and a tunnel, and its padding between a sender's and a receiver's capture.
No address, no port and no time of day is a feature: they let a model learn a testbed by heart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.traffic.schema import Feature, TrafficSchema

__all__ = ["CLASSES", "DERIVED", "FLOW64", "PROTOCOLS", "STATISTICS", "derive"]

CLASSES = (
    "Benign",
    "DDoS-TCP_Flood",
    "DDoS-UDP_Flood",
    "DDoS-ICMP_Flood",
    "Recon-PortScan",
    "Recon-OSScan",
    "BruteForce-SSH",
    "BruteForce-FTP",
    "Spoofing-ARP",
    "Spoofing-DNS",
    "WebAttack-SQLi",
    "WebAttack-XSS",
    "Malware-Backdoor",
)
"""Benign first; the order is part of the schema's digest."""

PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
"""The protocol's vocabulary, in order, with IANA's numbers; any other protocol has index 0."""

_LARGEST = float(np.finfo(np.float32).max)
_FLAGS = ("syn", "cwr", "ece", "urg", "ack", "psh", "rst", "fin")


def _statistics() -> list[Feature]:
    features = []
    for way in ("bidirectional", "src2dst", "dst2src"):
        features += [
            Feature(name=f"{way}_duration_ms", unit="ms", transform="log", description="last packet minus first"),
            Feature(name=f"{way}_packets", unit="packets", kind="count", transform="log"),
            Feature(name=f"{way}_bytes", unit="B", kind="count", transform="log", description="IP headers included"),
        ]
        for suffix, unit, what in (("ps", "B", "IP packet size"), ("piat_ms", "ms", "gap between packets")):
            features += [
                Feature(
                    name=f"{way}_{statistic}_{suffix}", unit=unit, transform="log", description=f"{statistic}, {what}"
                )
                for statistic in ("min", "mean", "stddev", "max")
            ]
        features += [
            Feature(name=f"{way}_{flag}_packets", unit="packets", kind="count", transform="log") for flag in _FLAGS
        ]
    return features


DERIVED = (
    Feature(
        name="bytes_per_second",
        unit="B/s",
        transform="log",
        description="bidirectional_bytes / max(bidirectional_duration, 1 ms)",
    ),
    Feature(
        name="packets_per_second",
        unit="1/s",
        transform="log",
        description="bidirectional_packets / max(bidirectional_duration, 1 ms)",
    ),
    Feature(
        name="down_byte_share", kind="ratio", description="dst2src_bytes / bidirectional_bytes; 0 where there are none"
    ),
    Feature(
        name="unacknowledged_share",
        kind="ratio",
        description="TCP: packets without the ACK flag / packets (1 for a lone SYN); 0 for other protocols",
    ),
    Feature(
        name="size_variation",
        transform="log",
        description="bidirectional_stddev_ps / bidirectional_mean_ps; 0 where the mean is 0",
    ),
    Feature(
        name="gap_variation",
        transform="log",
        description="bidirectional_stddev_piat_ms / bidirectional_mean_piat_ms; 0 where the mean is 0",
    ),
)

_STATISTICS = _statistics()
STATISTICS = tuple(f.name for f in _STATISTICS)
"""The 57 columns that are NFStream's own, under its names."""

FLOW64 = TrafficSchema(
    name="flow64",
    features=(
        *_STATISTICS,
        Feature(name="protocol", kind="categorical", transform="onehot", vocabulary=tuple(PROTOCOLS)),
        *DERIVED,
    ),
    classes=CLASSES,
)


def derive(columns: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Feature matrix of NFStream's flows.

    Args:
        columns: the 57 `STATISTICS` and `protocol` (IANA number), each array-like [N]: a dict of arrays or a frame.

    Returns:
        float32 [N, 64] in `FLOW64`'s order, finite.

    Raises:
        KeyError: a column is missing.
    """
    value = {name: np.asarray(columns[name], dtype=np.float64) for name in (*STATISTICS, "protocol")}
    n = len(value["protocol"])
    x = np.zeros((n, FLOW64.input_dim), np.float32)
    for i, name in enumerate(STATISTICS):
        # NFStream gives a deviation of NaN where one packet has none; a flow that shows nothing shows zero.
        x[:, i] = np.nan_to_num(value[name], nan=0.0, posinf=0.0, neginf=0.0)
    protocol = np.zeros(n)
    for index, number in enumerate(PROTOCOLS.values(), start=1):
        protocol[value["protocol"] == number] = index
    seconds = np.maximum(value["bidirectional_duration_ms"], 1.0) / 1000.0
    packets = value["bidirectional_packets"]
    tcp = value["protocol"] == PROTOCOLS["tcp"]
    ratios = [
        protocol,
        value["bidirectional_bytes"] / seconds,
        packets / seconds,
        np.clip(_ratio(value["dst2src_bytes"], value["bidirectional_bytes"]), 0.0, 1.0),
        np.where(tcp, np.clip(1.0 - _ratio(value["bidirectional_ack_packets"], packets), 0.0, 1.0), 0.0),
        _ratio(value["bidirectional_stddev_ps"], value["bidirectional_mean_ps"]),
        _ratio(value["bidirectional_stddev_piat_ms"], value["bidirectional_mean_piat_ms"]),
    ]
    x[:, len(STATISTICS) :] = np.clip(np.nan_to_num(np.column_stack(ratios)), 0.0, _LARGEST)
    return x


def _ratio(over: npt.NDArray[np.float64], under: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Two absurd stamps in a hostile capture can make a mean of next to nothing and a quotient beyond float64.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.divide(over, under, out=np.zeros_like(over), where=under > 0)
