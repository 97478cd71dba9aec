"""From a packet capture to flows: check the file, run NFStream on it in a sandbox, check what comes back.

    inspect   walks the record headers (`pcap.py`) and runs nothing
    extract   gives a `FlowTable`: features, and who spoke to whom and when
    ingest    gives an unlabelled `TrafficSet`: features and time; addresses go no further

A capture is a stranger's input to a large C library. So NFStream runs in another process (`_nfstream_worker.py`)
that has no root, no network and no file system where the host allows, with limits on memory, processor time and
output; that process, and all it started, is ended on a time-out, on Ctrl-C and on any error here. Its records are
taken only when it said how many there are, there are as many, and it ended well.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from robustidps.errors import (
    CaptureError,
    ConfigError,
    MissingExtraError,
    RobustIDPSError,
    StorageError,
    TruncatedCaptureError,
)
from robustidps.progress import Progress, silent
from robustidps.settings import writable
from robustidps.traffic import _nfstream_worker as worker
from robustidps.traffic.flow64 import FLOW64, STATISTICS, derive
from robustidps.traffic.pcap import CaptureReport, walk
from robustidps.traffic.trafficset import TrafficSet

__all__ = ["CAPTURE_SUFFIXES", "CaptureReport", "FlowTable", "Limits", "extract", "extract_many", "ingest", "inspect"]

CAPTURE_SUFFIXES = (".pcap", ".pcapng", ".cap")
"""Endings by which a capture is told from other files; what it is, its content says."""

IDLE_SECONDS, ACTIVE_SECONDS = 120, 1800
"""When NFStream ends a flow: after silence, and at the latest. Part of what a feature means."""

_RECORD = np.dtype(
    [(name, "<f8") for name in STATISTICS]
    + [("first_ms", "<i8"), ("src_port", "<u2"), ("dst_port", "<u2"), ("protocol", "<u2")]
    + [("src_ip", "S46"), ("dst_ip", "S46")]
)
_ADDRESS = frozenset("0123456789abcdef.:")
_LARGEST_LIMIT = 2**53


@dataclass(frozen=True)
class Limits:
    """What a capture may cost. Beyond it, a `CaptureError` that names the limit."""

    bytes: int = 4 * 1024**3  # of the file
    flows: int = 2_000_000
    memory_bytes: int = 4 * 1024**3  # resident, of the process that runs NFStream
    seconds: float = 3600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= _LARGEST_LIMIT:  # false for NaN as well
                raise ConfigError(f"{value:g} is no limit", where=f"limit on {name}", remedy="give a number above zero")


@dataclass(frozen=True, eq=False)
class FlowTable:
    """N flows of one capture, ordered by first packet, then by addresses, ports and protocol.

    features: float32 [N, 64] under `FLOW64`. first_seen: float64 [N], seconds since 1970 UTC, to the millisecond.
    src_ip, dst_ip: str [N]. src_port, dst_port: int32 [N]. protocol: int16 [N], IANA's number.
    """

    features: npt.NDArray[np.float32]
    first_seen: npt.NDArray[np.float64]
    src_ip: npt.NDArray[Any]
    dst_ip: npt.NDArray[Any]
    src_port: npt.NDArray[np.int32]
    dst_port: npt.NDArray[np.int32]
    protocol: npt.NDArray[np.int16]
    report: CaptureReport

    def __len__(self) -> int:
        return len(self.first_seen)


def inspect(path: Path | str, *, limits: Limits = Limits(), progress: Progress = silent) -> CaptureReport:
    """What the file is and whether it is whole; no packet is parsed.

    Raises:
        CaptureError: not there, empty, no capture, over the limit on bytes.
    """
    path = Path(path)
    with _opened(path, limits) as file:
        return walk(file, path, progress=progress)


def extract(
    path: Path | str,
    *,
    limits: Limits = Limits(),
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> FlowTable:
    """The flows of one capture. A capture without IP traffic gives an empty table.

    Args:
        truncated: what to do with a file that ends within a packet or is damaged after some: refuse it, or use the
            whole packets before the damage (the report says so).
        progress: told packets done of packets there are; may raise to cancel.

    Raises:
        TruncatedCaptureError: it isn't whole, and `truncated` is "refuse".
        CaptureError: not there, empty, no capture, over a limit, or NFStream failed on it.
        MissingExtraError: NFStream isn't installed.
    """
    with _Worker() as process:
        return _extract(Path(path), process, limits, truncated, progress)


def extract_many(
    paths: Iterable[Path | str],
    *,
    limits: Limits = Limits(),
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> Iterator[tuple[Path, FlowTable | RobustIDPSError]]:
    """`extract` for many captures with one start of NFStream; an error is given in its capture's place.

    Each capture is read in a fork of its own: what one of them breaks doesn't reach the next.
    """
    with _Worker() as process:
        for path in paths:
            try:
                yield Path(path), _extract(Path(path), process, limits, truncated, progress)
            except CaptureError as error:
                yield Path(path), error


def ingest(
    path: Path | str,
    *,
    limits: Limits = Limits(),
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> TrafficSet:
    """Unlabelled traffic of one capture; `source` is the file's name.

    Raises:
        CaptureError: as `extract`, and a capture in which no flow was found.
    """
    flows = extract(path, limits=limits, truncated=truncated, progress=progress)
    if not len(flows):
        held = f"holds {flows.report.packets} packets" if flows.report.packets else "holds no packet"
        raise CaptureError(f"{held}, and no IP flow", where=path, remedy="capture where IP traffic passes")
    return TrafficSet.build(
        FLOW64,
        flows.features,
        time=flows.first_seen,
        source=Path(path).name,
        provenance={"loader": "capture", "capture": flows.report.to_dict()},
    )


def _opened(path: Path, limits: Limits) -> BinaryIO:
    """`path` open for reading, if it is a plain file within the limit on bytes."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise CaptureError("no such file", where=path) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CaptureError(f"can't be opened: {reason}", where=path) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CaptureError(
            "is not a file",
            where=path,
            remedy="give one capture file; a folder of them needs labels (robustidps ingest --labels)",
        )
    if status.st_size > limits.bytes:
        os.close(descriptor)
        raise CaptureError(
            f"is {status.st_size} bytes, over the limit of {limits.bytes}",
            where=path,
            remedy="split it (editcap -c) or raise the limit on bytes",
        )
    return os.fdopen(descriptor, "rb", buffering=0)


def _extract(path: Path, process: _Worker, limits: Limits, truncated: str, progress: Progress) -> FlowTable:
    with _opened(path, limits) as file:
        report = walk(file, path, progress=progress)
        if report.truncated and truncated != "use":
            use = "use what is whole with --truncated use, or " if report.packets else ""
            raise TruncatedCaptureError(report.damage, where=path, remedy=f"{use}fetch the file again")
        if not report.packets:
            return _table(np.empty(0, _RECORD), replace(report, flows=0, packets_in_flows=0, packets_without_ip=0))
        if not report.truncated:
            return process.read(file, report, path, limits, progress)
        with writable(Path(tempfile.gettempdir())), tempfile.TemporaryFile(prefix="robustidps-") as whole:
            file.seek(0)
            left = report.whole_bytes
            while left and (block := file.read(min(left, 1 << 20))):
                whole.write(block)
                left -= len(block)
            whole.flush()
            return process.read(whole, report, path, limits, progress)


class _Worker:
    """One process that runs NFStream; started when first needed, and again after it had to be ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.errors: IO[bytes] | None = None
        self.sandbox: dict[str, Any] = {}
        self.jail: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> None:
        spec = importlib.util.find_spec("nfstream")
        if spec is None or spec.origin is None:
            raise MissingExtraError("NFStream", "traffic")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = ours
        with writable(Path(tempfile.gettempdir())):
            self.errors = tempfile.TemporaryFile(prefix="robustidps-")  # noqa: SIM115 - closed in end()
            self.jail = tempfile.TemporaryDirectory(prefix="robustidps-")
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-B", worker.__file__, str(theirs.fileno()), self.jail.name,
                     str(Path(spec.origin).parents[1])],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self.errors,
                    pass_fds=[theirs.fileno()],
                    env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                    cwd="/",
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise CaptureError(
                    f"the NFStream process did not start: {error}", remedy="see robustidps doctor"
                ) from None
        reply = self._receive(time.monotonic() + 60.0)
        if reply is None or "ready" not in reply:
            detail = self._last_words()
            self.end()
            raise CaptureError(f"the NFStream process did not start: {detail}", remedy="see robustidps doctor")
        self.sandbox = reply["ready"]

    def end(self) -> None:
        """Ends the process and everything it started, at once."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):  # it is gone already
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for thing in (self.channel, self.errors):
            if thing is not None:
                thing.close()
        if self.jail is not None:
            self.jail.cleanup()
        self.channel = self.errors = self.jail = None

    def read(
        self, file: BinaryIO | IO[bytes], report: CaptureReport, path: Path, limits: Limits, progress: Progress
    ) -> FlowTable:
        """Flows of the open capture `file`. After any error the process is ended, whole group."""
        try:
            if self.process is None:
                self.start()
            with writable(Path(tempfile.gettempdir())), tempfile.TemporaryFile(prefix="robustidps-") as out:
                return self._read(file, out, report, path, limits, progress)
        except BaseException:
            self.end()
            raise

    def _read(
        self, file: Any, out: Any, report: CaptureReport, path: Path, limits: Limits, progress: Progress
    ) -> FlowTable:
        assert self.channel is not None  # noqa: S101 - start() has set it
        started = time.monotonic()
        deadline = started + limits.seconds
        request = {
            "flows": limits.flows,
            "memory": limits.memory_bytes,
            "cpu": int(limits.seconds) + 1,
            "idle_ms": IDLE_SECONDS * 1000,
            "active_ms": ACTIVE_SECONDS * 1000,
        }
        socket.send_fds(self.channel, [json.dumps(request).encode()], [file.fileno(), out.fileno()])
        result: dict[str, Any] = {}
        while "exit" not in result:
            message = self._receive(min(deadline, time.monotonic() + 0.2))
            if message is None:
                if time.monotonic() >= deadline:
                    raise CaptureError(
                        f"was not read within {limits.seconds:g} s",
                        where=path,
                        remedy="split it or raise the time limit",
                    )
                continue
            if not message:
                raise CaptureError(f"the NFStream process ended on it: {self._last_words()}", where=path)
            if "flows" in message:
                done = min(int(message.get("packets", 0)), report.packets)
                progress("extracting flows", done, report.packets, unit="packets", note=f"{message['flows']} flows")
            else:
                result |= message
        self._judge(result, path, limits, report)
        records = _records(out, result["done"], path)
        progress("extracting flows", report.packets, report.packets, unit="packets", note=f"{len(records)} flows")
        return _table(
            records,
            replace(
                report,
                flows=len(records),
                packets_in_flows=int(records["bidirectional_packets"].sum()),
                packets_without_ip=int(result["skipped"]),
                seconds=round(time.monotonic() - started, 3),
                sandbox=self.sandbox,
            ),
        )

    def _judge(self, result: dict[str, Any], path: Path, limits: Limits, report: CaptureReport) -> None:
        """Raises unless the fork said that it was done, and ended well."""
        why = result.get("stopped")
        if why == "flows":
            raise CaptureError(
                f"has more than {limits.flows} flows", where=path, remedy="split it or raise the limit on flows"
            )
        if why == "memory" or result["exit"] in (-signal.SIGXCPU,):
            what = f"{limits.memory_bytes} bytes of memory" if why == "memory" else f"{limits.seconds:g} s"
            raise CaptureError(f"needs more than {what}", where=path, remedy="split it or raise the limit")
        if why == "read":
            mixed = len(report.link_types) > 1
            raise CaptureError(
                f"libpcap can't read it: {result.get('detail') or 'no reason given'}",
                where=path,
                remedy="it mixes link types; write one file for each interface" if mixed else None,
            )
        if why == "write":
            raise StorageError(
                f"flows can't be written: {result.get('detail')}",
                where=tempfile.gettempdir(),
                remedy="free space there",
            )
        if result["exit"] != 0 or not isinstance(result.get("done"), int):
            code = result["exit"]
            end = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
            raise CaptureError(f"NFStream failed on it ({end}): {self._last_words()}", where=path)

    def _receive(self, until: float) -> dict[str, Any] | None:
        """The next message; None at `until`; {} when the process is gone."""
        assert self.channel is not None  # noqa: S101
        ready, _, _ = select.select([self.channel], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        try:
            message = self.channel.recv(65536)
        except ConnectionError:
            return {}
        if not message:
            return {}
        try:
            content = json.loads(message)
        except (ValueError, RecursionError):
            return {}
        # Whoever broke NFStream may write here too: numbers and short words, or it is as good as gone.
        plain = isinstance(content, dict) and all(isinstance(v, int | str | dict) for v in content.values())
        return content if plain else {}

    def _last_words(self) -> str:
        if self.errors is None:
            return "no message"
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 2000))
        lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "no message"


def _records(out: Any, count: int, path: Path) -> npt.NDArray[Any]:
    """The worker's records, believed only as far as they make sense."""
    out.seek(0)
    content = out.read()
    if len(content) != count * _RECORD.itemsize:
        raise CaptureError(
            f"NFStream gave {len(content)} bytes for {count} flows of {_RECORD.itemsize}",
            where=path,
            remedy="try again",
        )
    return np.frombuffer(content, _RECORD)


def _table(records: npt.NDArray[Any], report: CaptureReport) -> FlowTable:
    order = np.lexsort([records[k] for k in ("protocol", "dst_port", "src_port", "dst_ip", "src_ip", "first_ms")])
    records = records[order]
    addresses = {}
    for name in ("src_ip", "dst_ip"):
        different, which = np.unique(records[name], return_inverse=True)
        words = [a.decode("ascii", "replace") for a in different.tolist()]
        if not _ADDRESS.issuperset("".join(words)):
            raise CaptureError("NFStream gave something that is no address", where=report.path)
        addresses[name] = np.array(words, dtype=object)[which] if words else np.empty(0, object)
    features = np.empty((len(records), FLOW64.input_dim), np.float32)
    for start in range(0, len(records), 65_536):  # in blocks: the statistics are float64 while they are worked on
        block = records[start : start + 65_536]
        features[start : start + len(block)] = derive({k: block[k] for k in (*STATISTICS, "protocol")})
    return FlowTable(
        features=features,
        first_seen=records["first_ms"] / 1000.0,
        src_ip=addresses["src_ip"],
        dst_ip=addresses["dst_ip"],
        src_port=records["src_port"].astype(np.int32),
        dst_port=records["dst_port"].astype(np.int32),
        protocol=records["protocol"].astype(np.int16),
        report=report,
    )
