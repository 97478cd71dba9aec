"""A process of its own for a stranger's model: what it breaks, eats or never finishes ends there and is a refusal here.

`run` starts `python -m MODULE` over a folder: inputs lie in it, the worker leaves its results and `reply.json` in it.
The worker calls `confine` before it imports anything large. From then on it has, where the kernel allows it (the reply
says what held): no network, no new privileges, no file it can write outside the folder, none it can read outside the
folder and the installed software (Landlock), and limits on memory, processor time and size of files. The parent ends
it, and all it started, after the time limit, on Ctrl-C and on any error.

    bundle/trial.py             first load and run of an ONNX file
    importing/keras_files.py    Keras and SavedModel to ONNX
    importing/weights.py        `.pt` to safetensors

Captures have a worker of another kind, which serves many of them (`traffic/capture.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustidps.errors import BundleError, ConfigError, UnavailableError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import writable

__all__ = ["Limits", "confine", "refuse", "reply", "request_of", "run"]

GIB = 2**30
_REPLY = 64 * 1024  # bytes of a reply that are read
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _CLONE_NEWNET, _CLONE_NEWUSER = 1, 38, 0x40000000, 0x10000000


@dataclass(frozen=True)
class Limits:
    """What a stranger's model may cost. memory_bytes is address space: frameworks reserve more than they use."""

    seconds: float = 120.0
    memory_bytes: int = 4 * GIB
    file_bytes: int = GIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < 2**53:  # false for NaN as well
                raise ConfigError(f"{value:g} is no limit", where=f"limit on {name}", remedy="give a number above zero")


def run(
    module: str,
    request: dict[str, Any],
    folder: Path,
    *,
    limits: Limits,
    where: object,
    stage: str,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The worker's reply; its files are in `folder`.

    Args:
        module: the worker, which reads its request with `request_of` and answers with `reply` or `refuse`.
        where: what the worker looks at, for messages. stage: what it does, for progress.

    Raises:
        BundleError: the worker refused the model, crashed on it, or went beyond a limit.
        UnavailableError: no process could be started.
    """
    with writable(folder):
        (folder / "request.json").write_text(json.dumps(request | vars(limits)), encoding="utf-8")
        errors = tempfile.TemporaryFile(prefix="robustidps-")  # noqa: SIM115 - closed below
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
    with errors:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-m", module, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment | quiet,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"no process could be started: {error}", where=module) from None
        try:
            code = _wait(process, limits, where, stage, progress)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it is gone already
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return _judge(folder / "reply.json", code, limits, where, _last_words(errors))


def _wait(process: subprocess.Popen[bytes], limits: Limits, where: object, stage: str, progress: Progress) -> int:
    started = time.monotonic()
    while True:
        progress(stage, 0, None)
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() - started > limits.seconds:
                raise BundleError(
                    f"was not done within {limits.seconds:g} s: {stage}", where=where, remedy="give a smaller model"
                ) from None


def _judge(path: Path, code: int, limits: Limits, where: object, words: str) -> dict[str, Any]:
    if code in (-signal.SIGXCPU, -signal.SIGXFSZ):
        what = f"{limits.seconds:g} s" if code == -signal.SIGXCPU else f"{limits.file_bytes} bytes of output"
        raise BundleError(f"needs more than {what}", where=where)
    content: Any = None
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_REPLY))
    except (OSError, ValueError, RecursionError):
        content = None  # judged below: no reply is a crash
    if isinstance(content, dict) and isinstance(content.get("refused"), str):
        raise BundleError(printable(content["refused"], 400), where=where, remedy=_remedy(content))
    if isinstance(content, dict) and content.get("memory") is True:
        raise BundleError(f"needs more than {limits.memory_bytes >> 20} MiB of memory", where=where)
    if code != 0 or not isinstance(content, dict):
        end = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        raise BundleError(
            f"the process that tried it {end}: {printable(words)}", where=where, remedy="it is not safe to load"
        )
    return content


def _remedy(content: dict[str, Any]) -> str | None:
    return printable(content["remedy"]) if isinstance(content.get("remedy"), str) else None


def _last_words(errors: Any) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 2000))
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "no message"


# --- the worker's side


def request_of(folder: Path) -> dict[str, Any]:
    """What `run` was asked, in the worker."""
    content: dict[str, Any] = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    return content


def reply(folder: Path, content: dict[str, Any]) -> None:
    """Answers `run`, in the worker."""
    (folder / "reply.json").write_text(json.dumps(content), encoding="utf-8")


def refuse(folder: Path, problem: str, remedy: str | None = None) -> None:
    """Answers `run` with a refusal, in the worker."""
    reply(folder, {"refused": problem[:2000], "remedy": remedy})


def confine(folder: Path, limits: dict[str, Any]) -> dict[str, Any]:
    """Gives up what a worker doesn't need; call it while there is one thread, which is before anything large is loaded.

    Returns:
        What held on this machine: no_network, no_new_privileges, files (Landlock's version, 0 where there is none).
    """
    for what, amount, spare in (
        (resource.RLIMIT_AS, int(limits["memory_bytes"]), 0),
        (resource.RLIMIT_CPU, int(limits["seconds"]) + 1, 1),  # the soft limit has a signal of its own
        (resource.RLIMIT_FSIZE, int(limits["file_bytes"]), 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        ceiling = resource.getrlimit(what)[1]
        hard = amount + spare if ceiling == resource.RLIM_INFINITY else min(amount + spare, ceiling)
        resource.setrlimit(what, (min(amount, hard), hard))
    if sys.platform != "linux":
        return {"no_network": False, "no_new_privileges": False, "files": 0}
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    alone = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    no_network = libc.unshare(alone) == 0
    no_new = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return {"no_network": no_network, "no_new_privileges": no_new, "files": _landlock(libc, folder) if no_new else 0}


# Landlock (linux/landlock.h): its system calls' numbers on all architectures, and rights by the version they came with.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys", "/dev")


def _landlock(libc: Any, folder: Path) -> int:
    """Everything may be done in `folder`, installed software read, and nothing else touched. The version, or 0."""
    version = int(libc.syscall(_CREATE_RULESET, None, 0, 1))
    if version < 1:
        return 0
    rights = sum(bits for since, bits in _RIGHTS.items() if version >= since)
    # struct landlock_ruleset_attr: files; TCP (binding, connecting) from version 4; sockets and signals from 6
    attributes = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = int(libc.syscall(_CREATE_RULESET, attributes, size, 0))
    if ruleset < 0:
        return 0
    software = {*_SYSTEM, sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), *filter(None, sys.path)}
    software.add(str(Path(__file__).resolve().parents[1]))  # ours, where it is installed in place
    wanted = [(path, _EXECUTE | _READ_FILE | _READ_DIR) for path in sorted(software) if os.path.isdir(path)]  # noqa: PTH112
    for path, allowed in [*wanted, (str(folder), rights), (os.devnull, rights & (_WRITE_FILE | _READ_FILE))]:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # gone in this moment
        rule = struct.pack("=Qi", allowed, handle)
        libc.syscall(_ADD_RULE, ruleset, 1, rule, 0)
        os.close(handle)
    held = libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return version if held else 0
