"""The halves of the real captures, and how a model's answers about them are counted."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks._real import MISSING, PARTS, RealCapture, family, outcome, part_of, real_captures, transfer
from robustidps.traffic.flow64 import CLASSES, FLOW64

CARD = Path(__file__).resolve().parents[2] / "data" / "captures.md"


def listed() -> dict[str, str]:
    """Captures by the card's list: `benign/tls` to the half."""
    found = {}
    for part, kind, names in re.findall(r"\*\*(\S+), (\w+)\*\* \(\d+\):(.*?)\.\n", CARD.read_text(), re.DOTALL):
        found |= {f"{kind}/{name}": part for name in re.findall("`([^`]+)`", names)}
    return found


def capture(name: str, label: str, codes: list[int]) -> RealCapture:
    """A capture whose flows carry in their first feature the class that `told` will give them."""
    features = np.zeros((len(codes), FLOW64.input_dim), np.float32)
    features[:, 0] = codes
    return RealCapture(name, name.split("/")[0], label, features)


def told(x: np.ndarray) -> np.ndarray:
    p = np.full((len(x), len(CLASSES)), 0.01)
    p[np.arange(len(x)), x[:, 0].astype(int)] = 0.88
    return p


def test_the_card_lists_every_half_as_the_rule_has_it():
    there = listed()
    assert len(there) > 250
    assert {name: part_of(name + ".pcap") for name in there} == there
    for kind in ("benign", "attack"):
        assert {part for name, part in there.items() if name.startswith(kind)} == set(PARTS)


@pytest.mark.real
def test_the_card_lists_every_capture_that_is_there(shared_data: Path):
    with (shared_data / "captures" / "labels.csv").open(encoding="utf-8", newline="") as file:
        names = {row["capture"] for row in csv.DictReader(file)}
    assert set(listed()) == {n.rsplit(".", 1)[0] for n in names if not n.startswith("hostile/")}


def test_benign_captures_of_one_family_stay_together():
    assert family("benign/TLS_esni.pcapng") == family("benign/443-tls.pcap") == "tls"
    assert family("benign/1234.pcap") == "1234"
    assert part_of("benign/tls_a.pcap") == part_of("benign/tls-b.pcap") == part_of("benign/tls.pcapng")


def test_an_application_counts_once_however_many_flows_it_has():
    alike = [capture(f"benign/{word}.pcap", "Benign", [0]) for word in ("a", "b", "c", "d", "e", "f", "g")]
    noisy = capture("benign/h.pcap", "Benign", [2] * 50 + [0] * 50)
    result = outcome([*alike, noisy], told)
    assert (result.applications, result.flows) == (8, 107)
    assert result.alerting.value == pytest.approx(0.5 / 8)
    assert result.silent.value == pytest.approx(7 / 8)
    assert result.alerting.low is not None and result.alerting.low <= 0.0625 <= (result.alerting.high or 0)


def test_recall_is_per_class_over_all_its_captures_and_a_label_without_a_class_is_only_found():
    scan = CLASSES.index("Recon-PortScan")
    captures = [
        capture("attack/one.pcap", "Recon-PortScan", [scan, scan, 0]),
        capture("attack/two.pcap", "Recon-PortScan", [1]),
        capture("attack/other.pcap", "DoS-Other", [1, 0]),
        capture("attack/unknown.pcap", "", [1]),
    ]
    result = outcome(captures, told)
    assert result.recall == {"Recon-PortScan": (0.5, 4, 2)}
    assert result.found == {"DoS-Other": (0.5, 2, 1), "Recon-PortScan": (0.75, 4, 2)}


def test_thresholds_decide_what_is_an_alert_but_not_what_is_called_an_attack():
    thresholds = dict.fromkeys(CLASSES[1:], 0.9)
    result = outcome([capture("benign/a.pcap", "Benign", [2, 0])], told, thresholds)
    assert (result.alerting.value, result.called.value) == (0, 0.5)


def test_where_captures_are_missing_the_row_says_so(tmp_path: Path):
    assert real_captures(tmp_path / "nowhere") == []
    assert transfer([], {"model": [(told, None)]}) == MISSING


def test_the_rows_hold_both_halves_and_each_class_that_occurs():
    names = {
        part: next(f"benign/{w}.pcap" for w in "abcdefgh" if part_of(f"benign/{w}.pcap") == part) for part in PARTS
    }
    attack = next(f"attack/{w}.pcap" for w in "abcdefgh" if part_of(f"attack/{w}.pcap") == "held-back")
    captures = [*(capture(n, "Benign", [0]) for n in names.values()), capture(attack, "WebAttack-XSS", [11, 11, 0])]
    text = transfer(captures, {"one": [(told, None)], "two seeds": [(told, None), (told, None)]})
    assert "held-back: recall WebAttack-XSS (3 flows, 1 capture)" in text
    assert "0.667" in text and "0.667 (0.667 to 0.667)" in text
    assert "development: applications without any false alert" in text
