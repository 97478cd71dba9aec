"""A simulation on disk: one capture and one table of truth a day, and a manifest that is written last.

    FOLDER/simulation-DIGEST/
      day-00.pcap          headers of every packet of that day
      day-00.truth.npz     conversations of that day: endpoints, protocol, first and last packet, label, campaign, tool
      manifest.json        settings, simulator version, and size and SHA-256 of each file

Days don't depend on each other nor on how many there are, so they may be made in any order and by any number of
processes. The folder is made under another name and renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustidps.errors import StorageError
from robustidps.progress import Progress, silent
from robustidps.settings import writable
from robustidps.traffic.simulator import benign_machines, benign_sessions, benign_tail, benign_users, build, pcap
from robustidps.traffic.simulator.attacks import tool as attack_tool
from robustidps.traffic.simulator.catalogue import APPLICATIONS, CLASSES, SHARES, TOOLS
from robustidps.traffic.simulator.day import Day, Run, stream
from robustidps.traffic.simulator.dialects import FAMILIES
from robustidps.traffic.simulator.plan import TCP, UDP, Array
from robustidps.traffic.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from robustidps.traffic.simulator.world import World

if TYPE_CHECKING:
    from robustidps.traffic.labels import Truth

__all__ = ["Simulation", "day_plan", "simulate", "write_day"]

LEAST_FLOWS = 4  # of a run, where a class has fewer runs on a day than tools
PACKETS_PER_FLOW = 25.5  # over the default mix
_OFFICE_APPLICATIONS = ("web", "quic", "video", "download", "mail", "voip", "ssh", "ftp", "database", "failed")


@dataclass(frozen=True)
class Simulation:
    """What `simulate` made. captures: one pcap a day, in order. packets: how many in each."""

    folder: Path
    settings: SimulatorSettings
    captures: tuple[Path, ...]
    packets: tuple[int, ...]
    manifest: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """What there is, for a page."""
        return {
            "folder": str(self.folder),
            "captures": len(self.captures),
            "packets": sum(self.packets),
            "bytes": sum(path.stat().st_size for path in self.captures),
            "simulator": SIMULATOR_VERSION,
            "settings": self.settings.digest[:16],
        }

    def truth(self, day: int) -> Truth:
        """Who did what on a day, for `labels.join`."""
        return read_truth(self.captures[day].with_suffix(".truth.npz"))


def day_plan(settings: SimulatorSettings, number: int) -> Day:
    """All conversations of a day."""
    day = Day(settings, number, World(settings.seed))
    flows = settings.packets_per_day / PACKETS_PER_FLOW
    shares = dict(APPLICATIONS)
    looks = ("failed", "health", "mirrored")
    for name in looks:
        shares[name] *= 0.5 + day.difficulty
    whole = sum(shares.values())
    for name, share in shares.items():
        rate = 0.45 if day.is_weekend and name in _OFFICE_APPLICATIONS else 1.0
        n = max(round(flows * (1 - settings.prevalence) * share / whole * rate), 1)
        day.rng = stream(settings, number, name)
        if name in FAMILIES:
            benign_tail.speak(day, name, n)
            continue
        module = next(m for m in (benign_users, benign_sessions, benign_machines) if name in m.__all__)
        getattr(module, name)(day, n)
    for label, share in SHARES.items():
        tools = settings.tools(label, number)
        if not tools or not settings.prevalence:
            continue
        runs = _runs(label, flows * settings.prevalence * share)
        offset = int(np.random.default_rng([settings.seed, CLASSES.index(label)]).integers(1 << 20))
        for k in range(runs):
            rng = stream(settings, number, f"{label}/{k}")
            name = tools[(offset + number * runs + k) % len(tools)]
            size = flows * settings.prevalence * share / runs * float(rng.lognormal(0, 0.2))
            run = Run(
                day,
                label,
                name,
                f"{label}/day{number:02d}/{k}",
                max(round(size), 4),
                rng,
                float(np.clip(rng.normal(day.difficulty, 0.22), 0, 1)),
            )
            attack_tool(name)(run)
    return day


def _runs(label: str, flows: float) -> int:
    """Attack runs of a class on a day with so many of its flows: one a tool, or half as many where each would be tiny.

    So every tool has its turn within two days, and on every day of an ordinary simulation.
    """
    tools = len(TOOLS[label])
    return min(max(round(flows / LEAST_FLOWS), (tools + 1) // 2, 2), tools)


def write_day(settings: SimulatorSettings, number: int, capture: Path) -> int:
    """Writes a day's capture and, beside it, its truth; gives the number of packets.

    Raises:
        StorageError: full disk, read-only folder.
    """
    day = day_plan(settings, number)
    packets, flows = build.packets(day.plan, day.world, stream(settings, number, "packets"))
    start = settings.epoch + number * build.DAY
    pieces = pcap.capture_bytes(packets, flows, day.world, start, settings.seed * 1000 + number)
    with writable(capture):
        with capture.open("wb") as file:
            file.write(pcap.GLOBAL_HEADER)
            for piece in pieces:
                file.write(piece.data)  # not tofile: on a full disk that raises without saying why
        _write_truth(capture.with_suffix(".truth.npz"), day, packets, flows, start)
    return len(packets)


def _write_truth(path: Path, day: Day, packets: Array, flows: dict[str, Array], start: float) -> None:
    n = day.plan.count
    first, last = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(first, packets["flow"], packets["t"])
    np.maximum.at(last, packets["flow"], packets["t"])
    seen = np.isfinite(first)
    ip = day.world.columns["ip"].astype(np.uint32)
    ported = np.isin(flows["protocol"], (TCP, UDP))
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            src=ip[flows["client"]][seen],
            dst=ip[flows["server"]][seen],
            src_port=np.where(ported, flows["sport"], 0)[seen].astype(np.int32),
            dst_port=np.where(ported, flows["dport"], 0)[seen].astype(np.int32),
            protocol=flows["protocol"][seen].astype(np.int16),
            ip_version=flows["ip_version"][seen],
            start=start + first[seen],
            end=start + last[seen],
            label=flows["label"][seen],
            campaign=flows["campaign"][seen],
            tool=flows["tool"][seen],
            names=np.array(day.plan.names),
            classes=np.array(CLASSES),
        )


def read_truth(path: Path) -> Truth:
    """A day's truth from its file."""
    from robustidps.traffic.labels import Truth

    with np.load(path, allow_pickle=False) as z:
        names, classes = z["names"].astype(object), z["classes"].astype(object)
        return Truth(
            src_ip=_written(z["src"], z["ip_version"]),
            dst_ip=_written(z["dst"], z["ip_version"]),
            src_port=z["src_port"],
            dst_port=z["dst_port"],
            protocol=z["protocol"],
            start=z["start"],
            end=z["end"],
            label=classes[z["label"]],
            campaign=names[z["campaign"]],
            tool=names[z["tool"]],
        )


def _written(ip: Array, ip_version: Array) -> Array:
    """Addresses as NFStream writes them; `pcap` says what a host's IPv6 address is."""
    values, inverse = np.unique(ip.astype(np.int64) * 16 + ip_version, return_inverse=True)
    words = [_address(v >> 4, v & 15) for v in values.tolist()]
    return np.array(words, dtype=object)[inverse]


def _address(ip: int, version: int) -> str:
    if version == 6:
        return f"2001:db8::{ip >> 16:x}:{ip & 0xFFFF:x}"
    return f"{ip >> 24}.{ip >> 16 & 255}.{ip >> 8 & 255}.{ip & 255}"


def simulate(settings: SimulatorSettings, folder: Path, *, progress: Progress = silent) -> Simulation:
    """Makes the simulation under `folder`, or opens it where it is already.

    Raises:
        StorageError: full disk, read-only folder; nothing half-made is left.
    """
    home = folder / f"simulation-{settings.digest[:16]}"
    found = _open(home, settings)
    if found:
        return found
    part = folder / f".{home.name}.{uuid.uuid4().hex[:8]}.part"
    with writable(folder):
        part.mkdir(parents=True)
    try:
        days = []
        expected = float(settings.packets_per_day * settings.days)
        done = 0
        for number in range(settings.days):
            progress("simulating traffic", done, max(expected, done), unit="packets", note=f"day {number + 1}")
            capture = part / f"day-{number:02d}.pcap"
            count = write_day(settings, number, capture)
            done += count
            days.append(
                {"packets": count, **{f.name: _identity(f) for f in (capture, capture.with_suffix(".truth.npz"))}}
            )
        progress("simulating traffic", done, done, unit="packets")
        manifest = {
            "simulator": SIMULATOR_VERSION,
            "digest": settings.digest,
            "settings": settings.model_dump(mode="json"),
            "days": days,
        }
        with writable(part):
            (part / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            try:
                part.rename(home)
            except OSError:  # there is one: damaged, or made by somebody else in the meantime
                other = _open(home, settings)
                if other:
                    return other
                if not home.exists():
                    raise
                home.rename(part.with_suffix(".old"))
                part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(part.with_suffix(".old"), ignore_errors=True)
    made = _open(home, settings)
    if made is None:
        raise StorageError("was changed while it was made", where=home, remedy="make it again, elsewhere if need be")
    return made


def _identity(file: Path) -> dict[str, Any]:
    with file.open("rb") as f:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}


def _open(home: Path, settings: SimulatorSettings) -> Simulation | None:
    """The simulation that lies there, if it is complete and of these settings and this version."""
    try:
        manifest = json.loads((home / "manifest.json").read_text(encoding="utf-8"))
        whole = manifest["digest"] == settings.digest and all(
            (home / name).stat().st_size == what["size"]
            for day in manifest["days"]
            for name, what in day.items()
            if isinstance(what, dict)
        )
        counts = tuple(int(day["packets"]) for day in manifest["days"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not whole or len(counts) != settings.days:
        return None
    captures = tuple(home / f"day-{i:02d}.pcap" for i in range(settings.days))
    return Simulation(home, settings, captures, counts, manifest)
