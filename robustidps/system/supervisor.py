"""Starts the services in order, watches them, restarts what ends, and ends everything.

`running()` gives a supervisor whose services all answer; whoever holds it calls `look()` again and again. However the
block ends, all that was started is ended. Where the process itself is killed, its watchdog does that (`processes.py`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from robustidps.errors import ConfigError, ConflictError, RobustIDPSError, StorageError, UnavailableError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import Settings, writable
from robustidps.system import record as records
from robustidps.system.processes import MARK, born, end_marked, watchdog_command
from robustidps.system.record import Record, ServiceRecord, State
from robustidps.system.services import HOST, Service, common_environment, services

__all__ = ["Supervisor", "answers", "claimed_port", "running"]

START_S = 180.0
"""How long a service may take until it answers; two busy cores need a minute."""
HUNG_S = 180.0
"""How long one that runs may not answer before it is ended and started again."""
STEADY_S = 60.0
"""After this long without trouble the next end counts as the first."""
LONGEST_PAUSE_S = 60.0
FULL_BYTES = 64 * 2**20
"""Less free space than this is a likely reason for a server not to start."""
LOG_BYTES = 20 * 2**20
"""A log that grows beyond this is kept as `.log.1` and begun anew."""

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether `url`, on loopback, answers 200."""
    try:
        with _direct.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):  # ValueError: something else listens there, and speaks no HTTP
        return False


@contextmanager
def claimed_port(preferred: int) -> Iterator[int]:
    """`preferred` if nothing listens there on loopback, else one that the system picks.

    Servers take seconds until they listen. For the length of the block no other `claimed_port` on this machine gives
    the same number: the claim is a name in Linux's abstract socket space, which is no file and ends with its process.
    """
    for port in (preferred, *[0] * 20):
        with socket.socket() as probe, socket.socket(socket.AF_UNIX) as claim:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                found = int(probe.getsockname()[1])
                claim.bind(f"\0robustidps port {found}")
            except OSError:
                continue
            probe.close()
            yield found
            return
    raise UnavailableError("no free port on loopback")


@dataclass
class _Running:
    """A service and what is known of it; times are of the monotonic clock."""

    service: Service
    record: ServiceRecord
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    next_start: float = 0.0
    next_look: float = 0.0
    well_since: float | None = None
    silent_since: float | None = None
    falls: int = 0


class Supervisor:
    """The services of one home. Made by `running`."""

    def __init__(
        self,
        settings: Settings,
        listed: Sequence[Service],
        ports: Mapping[str, int],
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.ports, self.tell = settings, ports, tell
        self.logs = settings.folder("logs")
        self.folder = settings.folder("run")
        self._environment = os.environ | common_environment(settings, ports)
        self._running = [
            _Running(
                service,
                ServiceRecord(
                    name=service.name,
                    title=service.title,
                    what=service.what,
                    url=f"http://{HOST}:{ports[service.name]}",
                    port=ports[service.name],
                    log=str(self.logs / f"{service.name}.log"),
                ),
            )
            for service in listed
        ]
        self.record = Record(
            mark=records.new_mark(),
            pid=os.getpid(),
            born=born(os.getpid()) or 0,
            began=records.now(),
            ports=dict(ports),
            services=[r.record for r in self._running],
        )
        self._watchdog: tuple[subprocess.Popen[bytes], int] | None = None
        self._unwritten = False

    def url(self, name: str) -> str:
        """Where the service `name` answers."""
        return next(r.record.url for r in self._running if r.service.name == name)

    def start(self, progress: Progress = silent) -> None:
        """Starts all and waits until they answer.

        Raises:
            UnavailableError: one ended or didn't answer in time; its log is named.
            StorageError: home can't be written to.
        """
        records.write(self.settings, self.record)
        self._guard()
        began = time.monotonic()
        while not all(r.record.state == "up" for r in self._running):
            self.look()
            fallen = next((r for r in self._running if r.record.last_end), None)
            if fallen:
                full = shutil.disk_usage(self.folder).free < FULL_BYTES
                raise UnavailableError(
                    f"{fallen.service.title} didn't start: {_last_line(Path(fallen.record.log))}",
                    where=fallen.record.log,
                    remedy="the disk is full: free space" if full else "see that log",
                )
            waited = ", ".join(r.service.title for r in self._running if r.record.state == "starting")
            progress("starting", time.monotonic() - began, None, unit="s", note=waited)
            time.sleep(0.2)
        self._set_state("up")

    def look(self) -> None:
        """One look at everything: what waits is started, what has ended or hangs is started again. Takes seconds at
        most, where a service doesn't answer."""
        for r in self._running:
            now = time.monotonic()
            if r.process is None:
                well = {o.service.name for o in self._running if o.record.state == "up"}
                if now >= r.next_start and well.issuperset(r.service.after):
                    self._launch(r)
            elif (code := r.process.poll()) is not None:
                self._fallen(r, f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}")
            elif now >= r.next_look:
                self._ask(r)
        self._guard()

    def _launch(self, r: _Running) -> None:
        log = Path(r.record.log)
        with writable(log):
            _shorten(log)
            with log.open("ab") as sink:
                r.process = subprocess.Popen(
                    r.service.command(self.ports),
                    stdout=sink,
                    stderr=sink,
                    stdin=subprocess.DEVNULL,
                    env=self._environment
                    | r.service.environment(self.ports)
                    | {MARK: f"{self.record.mark}:{r.service.name}"},
                    cwd=self.folder,
                    start_new_session=True,
                )
        r.began, r.next_look, r.well_since, r.silent_since = time.monotonic(), 0.0, None, None
        r.record.pid = r.process.pid
        self._note(r, "starting")

    def _ask(self, r: _Running) -> None:
        well = answers(r.record.url + r.service.health)
        now = time.monotonic()
        r.next_look = now + (0.3 if r.record.state == "starting" else 3.0)
        if well:
            r.silent_since = None
            r.well_since = r.well_since or now
            if now - r.well_since > STEADY_S:
                r.falls = 0
            if r.record.state != "up":
                if r.falls or r.record.state == "not answering":
                    self.tell(f"{r.service.title} answers again")
                self._note(r, "up")
                _shorten(Path(r.record.log))
        elif r.record.state == "starting":
            if now - r.began > START_S:
                self._fallen(r, f"did not answer within {START_S:.0f} s")
        else:
            r.well_since = None
            r.silent_since = r.silent_since or now
            if r.record.state == "up" and now - r.silent_since > 5:
                self.tell(f"{r.service.title} does not answer")
                self._note(r, "not answering")
            if now - r.silent_since > HUNG_S:
                self._fallen(r, f"did not answer for {HUNG_S:.0f} s")

    def _fallen(self, r: _Running, how: str) -> None:
        """Clears away what a service left, and has it started again: at once, then after ever longer pauses."""
        self._end(r)
        pause = 0.0 if r.falls == 0 else min(LONGEST_PAUSE_S, 2.0 ** (r.falls - 1))
        r.falls += 1
        r.next_start = time.monotonic() + pause
        r.record.last_end = f"{how}, {records.now():%Y-%m-%d %H:%M:%S} UTC"
        if self.record.state == "up":
            r.record.restarts += 1
            self.tell(f"{r.service.title} {how}; starting it again {f'in {pause:.0f} s' if pause else 'now'}")
        self._note(r, "restarting")

    def _end(self, r: _Running) -> None:
        process, r.process, r.record.pid = r.process, None, None
        end_marked(f"{self.record.mark}:{r.service.name}", r.service.grace_s, process.poll if process else lambda: None)
        if process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)

    def end(self) -> None:
        """Ends all, the last started first; signals that ask for that again are not heard meanwhile."""
        said: list[str] = []  # told once nothing is left to end: the terminal may be closed
        with _undisturbed():
            self._set_state("ending")
            for r in reversed(self._running):
                self._end(r)
                self._note(r, "ended")
                try:
                    said += r.service.afterwards(self.ports) if r.began else []
                except RobustIDPSError as error:  # the next start makes up for it
                    said.append(str(error))
            end_marked(self.record.mark)  # what was being started when the end came
            if self._watchdog:
                os.close(self._watchdog[1])
                self._watchdog[0].wait()
            self._set_state("ended")
        for text in said:
            self.tell(text)

    def _guard(self) -> None:
        """Has a watchdog beside this process, which ends all once this one is gone."""
        if self._watchdog and self._watchdog[0].poll() is None:
            return
        if self._watchdog:
            os.close(self._watchdog[1])
        reading, writing = os.pipe()
        try:
            command = watchdog_command(self.record.mark, reading)
            process = subprocess.Popen(command, pass_fds=[reading], env={}, cwd="/", start_new_session=True)
        finally:
            os.close(reading)
        self._watchdog = (process, writing)

    def _note(self, r: _Running, state: State) -> None:
        r.record.state, r.record.since = state, records.now()
        self._write()

    def _set_state(self, state: str) -> None:
        self.record = self.record.model_copy(update={"state": state})
        self._write()

    def _write(self) -> None:
        try:
            records.write(self.settings, self.record)
            self._unwritten = False
        except StorageError as error:  # a full disk is no reason to end what runs
            if not self._unwritten:
                self.tell(f"what runs can't be recorded: {error}")
            self._unwritten = True


@contextmanager
def running(
    settings: Settings,
    *,
    ports: Mapping[str, int] | None = None,
    listed: Sequence[Service] | None = None,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Supervisor]:
    """The services of this home, up and answering; all end with the block.

    Args:
        ports: by service, ahead of the setting `ports`; a service without one gets the port it had last, or its usual
            one, or where that is taken any that is free.
        listed: the services; default all there are.
        tell: told of what happens, a sentence at a time.

    Raises:
        ConflictError: this home's system is up already, or a port that was asked for is taken.
        ConfigError: a port for a service that there isn't.
        UnavailableError: one ended or didn't answer in time; its log is named. StorageError.
    """
    known = {s.name for s in services(settings)}
    listed = services(settings) if listed is None else listed
    asked = settings.ports | dict(ports or {})
    for name in asked:
        if name not in known.union(s.name for s in listed):
            raise ConfigError(f"no service {printable(name)!r}", where="ports", remedy=f"known: {', '.join(known)}")
    with ExitStack() as stack:
        stack.enter_context(records.holding(settings))
        left = records.clear_leftovers(settings)
        if left:
            tell(f"ended {left} processes that a killed system had left")
        last = records.read(settings)
        chosen = {}
        for service in listed:
            before = last.ports.get(service.name) if last else None
            wanted = asked.get(service.name) or before or service.port
            chosen[service.name] = stack.enter_context(claimed_port(wanted))
            if chosen[service.name] != wanted:
                if service.name in asked:
                    raise ConflictError(
                        f"port {wanted} is taken",
                        where=service.title,
                        remedy=f"choose another with --port {service.name}=NUMBER, or leave it out for any free one",
                    )
                tell(f"port {wanted} is taken: {service.title} gets {chosen[service.name]}")
        supervisor = Supervisor(settings, listed, chosen, tell)
        try:
            supervisor.start(progress)
            yield supervisor
        finally:
            supervisor.end()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Doesn't hear signals that ask to end; only the main thread may say so, and only it hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _shorten(log: Path) -> None:
    """Keeps a log that has grown long as `.1`, and begins it anew under the same writers, which append."""
    with contextlib.suppress(OSError):  # a log is no reason to fail
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1].strip()
    return "it said nothing"


def stop(settings: Settings, *, timeout_s: float = 120.0, progress: Progress = silent) -> str:
    """Ends the system that is up for this home, and what a killed one left; says what was done.

    Raises:
        UnavailableError: it doesn't end.
    """
    found = records.supervisor_of(settings)
    if found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
        began = time.monotonic()
        while records.is_alive(found.pid, found.born):
            waited = time.monotonic() - began
            progress("ending", waited, None, unit="s")
            if waited > timeout_s:
                raise UnavailableError(
                    f"process {found.pid} does not end", remedy=f"kill -9 {found.pid}: the rest then ends by itself"
                )
            time.sleep(0.1)
    try:
        with records.holding(settings):
            left = records.clear_leftovers(settings)
    except ConflictError:
        raise RobustIDPSError("another one was started meanwhile", remedy="robustidps status") from None
    done = [f"ended what was up (process {found.pid})"] if found else []
    done += [f"ended {left} processes that a killed system had left"] if left else []
    return "; ".join(done) or "nothing was up"
