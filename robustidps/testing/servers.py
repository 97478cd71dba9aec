"""Servers of others for tests and benchmarks: started on loopback, awaited, ended with everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from robustidps.errors import UnavailableError
from robustidps.system.supervisor import answers

__all__ = ["end_group", "started"]


@contextmanager
def started(
    command: Sequence[str], health: str, environment: Mapping[str, str], log: Path, *, timeout_s: float = 180.0
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a server that answers at `health`, for the length of the block.

    Raises:
        UnavailableError: it ended or didn't answer within `timeout_s`; its last line is told.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True
        )
    try:
        until = time.monotonic() + timeout_s
        while not answers(health):
            if process.poll() is not None or time.monotonic() > until:
                tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise UnavailableError(f"didn't start: {tail[0]}", where=log)
            time.sleep(0.3)
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
    """Ends the whole process group: asks first, insists after `grace_s` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
