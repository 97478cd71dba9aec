"""The process that runs NFStream over captures of strangers; `capture.py` starts it by path and can end it at any time.

It loads NFStream, gives up what rights it has (root, network, file system, new privileges), and then serves requests
over one socket: an open capture and an open output file come in as descriptors, so it never needs a path. Each
capture is read in a fork of its own under limits, and a crash ends that fork alone. What comes out is fixed-size
binary records of numbers and printable addresses (`RECORD`), nothing that can carry code.

NFStream's own loop (`meter_workflow`) is called directly, in one process: its public class forks, pins itself to a
core, hands flows over by pickle, and spins for ever on a read error. It is imported by nobody but this file.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import types
from typing import Any

FLAGS = ("syn", "cwr", "ece", "urg", "ack", "psh", "rst", "fin")
COLUMNS = tuple(
    f"{way}_{what}"
    for way in ("bidirectional", "src2dst", "dst2src")
    for what in (
        "duration_ms",
        "packets",
        "bytes",
        *(f"{statistic}_{suffix}" for suffix in ("ps", "piat_ms") for statistic in ("min", "mean", "stddev", "max")),
        *(f"{flag}_packets" for flag in FLAGS),
    )
)
"""NFStream's 57 statistics, in the order in which a record has them."""

RECORD = struct.Struct("<57dqHHH46s46s")
"""One flow: the statistics, first packet in ms since 1970, source port, destination port, protocol, both addresses."""

NOBODY = 65534
BATCH = 1024  # records written at once
SPARE = 128 * 1024**2  # bytes of address space beyond the limit on resident memory
LATEST = 1 << 53  # ms; a pcapng may claim any time
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _CLONE_NEWNET, _CLONE_NEWUSER = 1, 38, 0x40000000, 0x10000000


class Stop(Exception):
    """Ends a reading from inside NFStream's loop; `reason` is one of `flows`, `memory`, `read`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def give_up_rights(jail: str) -> dict[str, Any]:
    """Drops root, network and file system as far as the host allows; says what came of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    on_linux = sys.platform == "linux"
    root = os.geteuid() == 0
    no_network = bool(on_linux and libc.unshare(_CLONE_NEWNET if root else _CLONE_NEWUSER | _CLONE_NEWNET) == 0)
    jailed = False
    if root:
        try:
            os.chroot(jail)
            os.chdir("/")
            jailed = True
        except OSError:
            pass  # a container without CAP_SYS_CHROOT; reported below
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    no_new = bool(on_linux and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
    return {"uid": os.getuid(), "no_new_privileges": no_new, "no_network": no_network, "jailed": jailed}


class Engine:
    """NFStream's C library with three of its functions watched: packets are counted, errors end the reading."""

    def __init__(self, lib: Any, null: Any, tell: Any) -> None:
        for name in dir(lib):
            setattr(self, name, getattr(lib, name))
        self.packets = self.skipped = 0
        following, start = lib.capture_next, lib.meter_initialize_flow

        def capture_next(*args: Any) -> int:
            result: int = following(*args)
            if result >= 0:
                self.packets += 1
                self.skipped += result == 0
                if not self.packets & 1023:
                    tell(self.packets)
            elif result == -1:
                # Offline, this is a packet that libpcap refuses; asked again it says the same, for ever.
                raise Stop("read", f"after {self.packets} packets")
            return result

        def meter_initialize_flow(*args: Any) -> Any:
            flow = start(*args)
            if flow == null:
                raise Stop("memory")  # NFStream would print a warning and drop the flow
            return flow

        self.capture_next, self.meter_initialize_flow = capture_next, meter_initialize_flow


class Sink:
    """Stands where NFStream expects its queue; writes each finished flow to `out`."""

    def __init__(self, out: int, limit: int) -> None:
        from operator import attrgetter

        self.out, self.limit, self.flows, self.batch = out, limit, 0, bytearray()
        self.read = attrgetter(*COLUMNS)

    def put(self, flow: Any) -> None:
        from nfstream.utils import NFEvent

        if flow is None or flow.id is NFEvent.ALL_AFFINITY_SET:
            return
        if flow.id is NFEvent.ERROR:
            raise Stop("read", str(flow.message))
        self.flows += 1
        if self.flows > self.limit:
            raise Stop("flows")
        self.batch += RECORD.pack(
            *self.read(flow),
            min(flow.bidirectional_first_seen_ms, LATEST),
            flow.src_port,
            flow.dst_port,
            flow.protocol,
            flow.src_ip.encode("ascii", "replace"),
            flow.dst_ip.encode("ascii", "replace"),
        )
        if len(self.batch) >= BATCH * RECORD.size:
            self.flush()

    def flush(self) -> None:
        view = memoryview(self.batch)
        while view:
            view = view[os.write(self.out, view) :]
        self.batch = bytearray()


def read_capture(request: dict[str, Any], out: int, channel: socket.socket) -> dict[str, Any]:
    """Runs NFStream over the capture on standard input. Returns the reply to send."""
    from nfstream import meter

    last = 0.0

    unit = 1 if sys.platform == "darwin" else 1024

    def tell(packets: int) -> None:
        nonlocal last
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit > request["memory"]:
            raise Stop("memory")
        now = time.monotonic()
        if now - last > 0.1:
            last = now
            channel.send(json.dumps({"packets": packets, "flows": sink.flows}).encode())

    ffi, lib = meter.create_engine()
    sink, engine = Sink(out, request["flows"]), Engine(lib, ffi.NULL, tell)
    meter.create_engine = lambda: (ffi, engine)
    meter.set_affinity = lambda core: None  # two captures read at once would share one core
    lock = types.SimpleNamespace(acquire=lambda: None, release=lambda: None)
    tracker = [types.SimpleNamespace(value=0) for _ in range(3)]
    meter.meter_workflow(
        source="-",  # libpcap's name for standard input
        snaplen=65535,
        decode_tunnels=True,
        bpf_filter=None,
        promisc=False,
        n_roots=1,
        root_idx=0,
        mode=0,
        idle_timeout=request["idle_ms"],
        active_timeout=request["active_ms"],
        accounting_mode=1,
        udps=(),
        n_dissections=0,
        statistics=True,
        splt=0,
        channel=sink,
        tracker=tracker,
        lock=lock,
        group_id=0,
        system_visibility_mode=0,
        socket_buffer_size=0,
    )
    sink.flush()
    return {"done": sink.flows, "packets": engine.packets, "skipped": engine.skipped}


def serve_one(request: dict[str, Any], capture: int, out: int, channel: socket.socket) -> None:
    """The fork: limits on, read, reply, end. Never returns."""
    status = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for what, amount, spare in (
            # The backstop; `tell` ends a reading before. CPython 3.11 can spin for ever where memory is refused to it
            # while it handles an exception, and then only the clock would end it.
            (resource.RLIMIT_AS, request["memory"] + SPARE, 0),
            (resource.RLIMIT_CPU, request["cpu"], 1),  # the soft limit has a signal of its own
            (resource.RLIMIT_FSIZE, (request["flows"] + BATCH) * RECORD.size, 0),
            (resource.RLIMIT_NOFILE, 32, 0),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_NPROC, 0, 0),
        ):
            ceiling = resource.getrlimit(what)[1]
            hard = amount + spare if ceiling == resource.RLIM_INFINITY else min(amount + spare, ceiling)
            resource.setrlimit(what, (min(amount, hard), hard))
        os.lseek(capture, 0, os.SEEK_SET)
        os.dup2(capture, 0)
        try:
            reply = read_capture(request, out, channel)
        except Stop as stop:
            reply = {"stopped": stop.reason, "detail": stop.detail}
        except MemoryError:
            reply = {"stopped": "memory", "detail": ""}
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            reply = {"stopped": "write", "detail": str(error.strerror)}
        channel.send(json.dumps(reply).encode())
        status = 0
    except BaseException as error:  # noqa: BLE001 - a fork must never run on into its parent's code
        os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)  # whatever happened, out of memory in the lines above included


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    sys.path.append(sys.argv[3])
    # NFStream imports pandas for a function that isn't called here; a stand-in saves a second of start-up.
    sys.modules["pandas"] = types.ModuleType("pandas")
    from nfstream import meter, utils

    assert meter and utils  # noqa: S101 - loaded now: from here on the file system is gone
    os.dup2(2, 1)
    channel.send(json.dumps({"ready": give_up_rights(sys.argv[2])}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 65536, 2)
        if not message:
            return
        capture, out = descriptors
        child = os.fork()
        if child == 0:
            serve_one(json.loads(message), capture, out, channel)
        os.close(capture)
        os.close(out)
        watch = os.pidfd_open(child)
        # The other end's hang-up shows as readable too: then nobody waits for this capture any more.
        waiting: list[Any] = [watch, channel]
        ready, _, _ = select.select(waiting, [], [])
        if watch not in ready:
            os.kill(child, signal.SIGKILL)
        os.close(watch)
        status = os.waitpid(child, 0)[1]
        channel.send(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode())


if __name__ == "__main__":
    main()
