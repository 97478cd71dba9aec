"""Simulator: packets a second against scapy, and how well plain models tell its classes apart.

Speed: one simulated day from settings to a finished capture on one core, against scapy writing the very same packets
(made from the same fields, then `wrpcap`). Separability: logistic regression and LightGBM with balanced class weights,
trained on the first eight of fourteen days, asked on the last six; rows that equal a training row are left out. The
last table repeats it where one tool of every class appears only on the test days. After the first table the same two
models are asked about real captures; without thresholds, whatever is called an attack is an alert.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from benchmarks._real import Probabilities, real_captures, transfer
from robustidps.preprocessing import Preprocessing
from robustidps.traffic.simulator import SimulatorSettings, simulated_traffic
from robustidps.traffic.simulator.build import packets
from robustidps.traffic.simulator.catalogue import TOOLS
from robustidps.traffic.simulator.day import stream
from robustidps.traffic.simulator.simulate import day_plan, write_day
from robustidps.traffic.trafficset import TrafficSet

MINUTES = 4
TRAINING_DAYS = 8
NEW = {tools[-1]: TRAINING_DAYS for tools in TOOLS.values()}
"""One tool of each class that is not there before the test days."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulator", description=__doc__)
    parser.add_argument("--speed", action="store_true", help="measure speed only")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/simulator.md")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    text = [speed()]
    if not arguments.speed:
        with tempfile.TemporaryDirectory() as folder:
            text += separability(Path(folder))
    page = "\n\n".join([*text, circumstances("python -m benchmarks simulator")])
    print(page)
    if arguments.write:
        print(f"written to {write_section('simulator.md', 'benchmark', page)}", file=sys.stderr)
    return 0


def speed(peer_packets: int = 6000, rounds: int = 5) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "day.pcap"
        peer = _scapy(Path(folder), peer_packets)
        for budget in (50_000, 500_000):
            settings = SimulatorSettings(packets_per_day=budget)
            rates = []
            for number in range(rounds):
                began = time.process_time()
                count = write_day(settings, number, path)
                rates.append(count / (time.process_time() - began))
            rate = float(np.median(rates))
            rows.append([f"simulator, days of {budget:,} packets", f"{rate:,.0f}", f"{rate / peer:,.0f}"])
    rows.append(["scapy, the same packets", f"{peer:,.0f}", "1"])
    return table(["packets per second of processor time", "packets/s", "times scapy"], rows)


def _scapy(folder: Path, limit: int) -> float:
    """scapy's rate on packets of a simulated day: building them from addresses, ports and flags, and writing them."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw
    from scapy.utils import wrpcap

    day = day_plan(SimulatorSettings(), 0)
    sent, flows = packets(day.plan, day.world, stream(day.settings, 0, "packets"))
    sent = sent[:: max(len(sent) // limit, 1)][:limit]
    ip = day.world.columns["ip"].astype(np.int64)
    began = time.process_time()
    made = []
    for p in sent:
        f, back = p["flow"], p["direction"] & 1
        ends = [
            (int(ip[flows["client"][f]]), int(flows["sport"][f])),
            (int(ip[flows["server"][f]]), int(flows["dport"][f])),
        ]
        (src, sport), (dst, dport) = ends[::-1] if back else ends
        head = Ether() / IP(src=_dotted(src), dst=_dotted(dst))
        protocol = int(flows["protocol"][f])
        if protocol == 6:
            inner: Any = TCP(
                sport=sport, dport=dport, flags=int(p["flags"]) & 255, seq=int(p["seq"]), ack=int(p["ack"])
            )
        else:
            inner = UDP(sport=sport, dport=dport) if protocol == 17 else ICMP()
        packet = head / inner / Raw(bytes(int(p["size"])))
        packet.time = float(p["t"])
        made.append(packet)
    wrpcap(str(folder / "scapy.pcap"), made)
    return len(sent) / (time.process_time() - began)


def _dotted(ip: int) -> str:
    return ".".join(str(ip >> shift & 255) for shift in (24, 16, 8, 0))


def separability(folder: Path) -> list[str]:
    out = []
    for title, settings in (
        ("Default settings, tools all seen in training", SimulatorSettings()),
        ("One tool of each class is new on the test days", SimulatorSettings.make(new_tools=NEW)),
    ):
        traffic = simulated_traffic(settings, folder)
        train, test = _by_time(traffic, settings)
        models = {"logistic regression": _linear, "LightGBM": _trees}
        fitted = {name: fit(traffic, train) for name, fit in models.items()}
        predicted = {name: model(traffic.features[test]).argmax(1) for name, model in fitted.items()}
        truth, benign = traffic.labels[test], traffic.labels[test] == 0
        rows = [
            [
                name,
                f"{np.mean(p == truth):.3f}",
                f"{_macro_f1(truth, p):.3f}",
                f"{np.mean(p[benign] != 0):.4f}",
                f"{np.mean(p[~benign] != 0):.3f}",
            ]
            for name, p in predicted.items()
        ]
        out.append(f"**{title}** ({len(train):,} flows to train on, {len(test):,} to test).")
        out.append(table(["model", "accuracy", "macro-F1", "false-positive rate", "attacks not called benign"], rows))
        new = np.isin(traffic.tool[test], list(settings.new_tools))
        rows = []
        for code, label in enumerate(traffic.schema.classes):
            cells = [label, f"{int(np.sum(truth == code)):,}"]
            for p in predicted.values():
                for which in (~new, new) if new.any() else (~new,):
                    mine = (truth == code) & which
                    cells.append(f"{np.mean(p[mine] == code):.2f}" if mine.any() else "-")
            rows.append(cells)
        kinds = (", seen", ", new") if new.any() else ("",)
        header = ["recall by class", "flows", *(f"{name}{kind}" for name in predicted for kind in kinds)]
        out.append(table(header, rows))
        if not new.any():
            out.append(
                "Classes and attack tools that LightGBM finds hardest: "
                + _hardest(traffic, test, predicted["LightGBM"])
            )
            out.append(transfer(real_captures(), {name: [(model, None)] for name, model in fitted.items()}))
    return out


def _by_time(traffic: TrafficSet, settings: SimulatorSettings) -> tuple[np.ndarray, np.ndarray]:
    day = np.floor((traffic.time - settings.epoch) / 86_400)
    train, test = np.flatnonzero(day < TRAINING_DAYS), np.flatnonzero(day >= TRAINING_DAYS)
    known = {traffic.features[i].tobytes() for i in train}
    return train, test[[traffic.features[i].tobytes() not in known for i in test]]


def _hardest(traffic: TrafficSet, test: np.ndarray, predicted: np.ndarray) -> str:
    right = predicted == traffic.labels[test]
    recall = {str(t): float(np.mean(right[traffic.tool[test] == t])) for names in TOOLS.values() for t in names}
    false = (traffic.labels[test] == 0) & ~right
    apps, counts = np.unique(traffic.tool[test][false].astype(str), return_counts=True)
    worst = ", ".join(f"{t} {recall[t]:.2f}" for t in sorted(recall, key=lambda t: recall[t])[:6])
    noisy = ", ".join(f"{apps[i]} {counts[i]}" for i in np.argsort(-counts, kind="stable")[:5])
    return f"{worst}. Its false alarms are mostly on: {noisy}."


def _macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, average="macro"))


def _linear(traffic: TrafficSet, train: np.ndarray) -> Probabilities:
    from sklearn.linear_model import LogisticRegression

    scaling = Preprocessing.fit(traffic.schema, traffic.features[train])
    x = scaling.transform(traffic.features[train])
    model = LogisticRegression(max_iter=150, class_weight="balanced").fit(x, traffic.labels[train])
    return lambda rows: model.predict_proba(scaling.transform(rows))


def _trees(traffic: TrafficSet, train: np.ndarray) -> Probabilities:
    import lightgbm

    model = lightgbm.LGBMClassifier(
        n_estimators=150, class_weight="balanced", n_jobs=1, random_state=0, verbose=-1, deterministic=True
    ).fit(traffic.features[train], traffic.labels[train])
    return model.predict_proba


if __name__ == "__main__":
    sys.exit(main())
