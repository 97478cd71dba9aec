"""Processes found by a mark in their environment, and ended with all they started.

A service starts helpers, and those start others, some in sessions of their own; process groups don't hold them all.
Each service therefore carries a mark in its environment (`ROBUSTIDPS_UP`), which whatever it starts inherits, and is
ended by it. This file runs as a program too: the watchdog, which waits until its supervisor is gone, however it went,
and ends what carries the mark. Standard library alone, so that it is small and starts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["MARK", "born", "end_marked", "is_alive", "marked", "watchdog_command"]

MARK = "ROBUSTIDPS_UP"


def born(pid: int) -> int | None:
    """When a process was started, in clock ticks since the machine was; with the number it names one process. None:
    there is no such process, or it has ended and waits for its parent (a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the process `pid` that was started at `started` still runs; a number given out again is another one."""
    return born(pid) == started


def marked(mark: str) -> list[int]:
    """This user's processes whose mark is `mark`, or `mark` followed by `:` and more."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is needed
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            folder = Path("/proc", entry)
            if folder.stat().st_uid != os.getuid():
                continue
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word == wanted or word.startswith(wanted + b":") for word in environment):
            found.append(int(entry))
    return found


def end_marked(mark: str, grace_s: float = 10.0, tick: Callable[[], object] = lambda: None) -> bool:
    """Asks every process with `mark` to end, insists after `grace_s` seconds; whether there was one.

    tick: called while waiting, so that a parent can reap what has ended.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + grace_s
    while left := marked(mark):
        insist = time.monotonic() > deadline
        for pid in left:
            if insist or pid not in asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if insist else signal.SIGTERM)
                asked.add(pid)
        tick()
        if insist and time.monotonic() > deadline + 10:  # in the kernel's hands (a dead network disk)
            break
        time.sleep(0.05)
    return bool(asked)


def watchdog_command(mark: str, pipe: int) -> list[str]:
    """What to run beside a supervisor that holds the other end of `pipe` and never writes to it."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), mark, str(pipe)]


def _watch(mark: str, pipe: int) -> None:
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # for the supervisor, whose end it waits for
        signal.signal(number, signal.SIG_IGN)
    while os.read(pipe, 1):
        pass
    end_marked(mark)


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
