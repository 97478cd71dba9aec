"""Lava's simulation of Loihi, in the Python that it needs: a process group that is started, watched and ended.

The runner (`deployments/loihi`) reads a folder and writes its results there; it says how far it is on a pipe. Lava
starts a process for every layer, and shared memory between them. So the runner leads a session of its own, and that is
ended as a whole on expiry, on Ctrl-C, and when anything goes wrong: asked first, so that Python's resource tracker
takes the shared memory away, then killed; whatever memory still bears this run's name is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import BundleError, ConfigError, ModelValidationError, UnavailableError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import Settings, writable

__all__ = ["BATCH", "LAVA", "Simulation", "installed", "simulate"]

LAVA = "0.10.0"
"""The one release of lava-nc that this was checked against, and its last."""

PROTOCOL = 1
BATCH = 250
"""Samples that go through the network side by side; more of them gained nothing on two cores."""

_GRACE_S = 5.0
_SHARED = Path("/dev/shm")  # noqa: S108 - where Linux keeps named shared memory
_REMEDY = "make loihi (docs/neuromorphic.md); another place is named with ROBUSTIDPS_LOIHI_PYTHON"


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a network did with N samples.

    counts: int64 [N, C], spikes of each output. totals: int64 [N, L], spikes of each layer.
    rasters: for each layer, bool [R, T, neurons]: every spike of the first R samples.
    """

    counts: npt.NDArray[np.int64]
    totals: npt.NDArray[np.int64]
    rasters: list[npt.NDArray[np.bool_]]

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The output with most spikes, [N]; the lowest index wins a tie."""
        return self.counts.argmax(axis=1)


def installed(settings: Settings) -> dict[str, Any]:
    """Versions of the runner's environment: protocol, python, lava-nc, nir, numpy.

    Raises:
        UnavailableError: it is missing, broken, or of another version than is needed.
    """
    python = settings.loihi_python
    try:
        done = subprocess.run(
            [str(python), "-I", "-m", "robustidps_loihi", "--versions"], capture_output=True, text=True, timeout=60
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except FileNotFoundError:
        raise UnavailableError("the Loihi simulation isn't set up", where=python, remedy=_REMEDY) from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"can't simulate Loihi: {printable(error)}", where=python, remedy=_REMEDY) from None
    if not isinstance(found, dict):
        words = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise UnavailableError(f"can't simulate Loihi: {printable(words[-1])}", where=python, remedy=_REMEDY)
    wanted = {"protocol": PROTOCOL, "lava-nc": LAVA}
    for name, version in wanted.items():
        if found.get(name) != version:
            text = f"has {name} {printable(found.get(name), 40)}, and {version} is needed"
            raise UnavailableError(text, where=python, remedy=_REMEDY)
    return found


def simulate(
    settings: Settings,
    nir: Path,
    data: npt.NDArray[Any],
    *,
    integers: Mapping[str, npt.NDArray[Any]] | None = None,
    batch: int = BATCH,
    raster: int = 0,
    limit_s: float = 1800.0,
    progress: Progress = silent,
) -> Simulation:
    """Runs a NIR graph on all samples in Lava.

    Args:
        nir: the graph, with dt, T, coding and reset in its metadata.
        data: [N, D]: float64 values, or int64 for fixed point, which go in at every step; or, for latency coding, the
            step from 0 at which each input fires, under 0 for never.
        integers: parameters of the fixed-point model by layer (`Quantised.arrays`); None for floating point.
        raster: samples whose every spike is kept, at most `batch`.
        limit_s: after which it is ended.

    Raises:
        UnavailableError: no such environment, another version, or no time left.
        BundleError: the runner refuses the graph. ModelValidationError: it crashed; its last words are in the message.
    """
    if not limit_s > 0:
        raise ConfigError(f"{limit_s:g} s is no time limit", remedy="give a number above zero")
    installed(settings)
    mode = "floating point" if integers is None else "fixed point"
    token = f"robustidps-{secrets.token_hex(6)}"
    with tempfile.TemporaryDirectory(prefix="robustidps-loihi-") as name:
        folder = Path(name)
        request = {"mode": "float" if integers is None else "fixed", "batch": batch, "raster": raster, "token": token}
        with writable(folder):
            (folder / "model.nir").write_bytes(nir.read_bytes())
            (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
            arrays: dict[str, Any] = {"data": data, **(integers or {})}
            np.savez(folder / "inputs.npz", **arrays)
        code, words = _run(settings, folder, token, limit_s, f"simulating Loihi, {mode}", progress)
        if code == 3:
            raise BundleError(printable(words.removeprefix("refused: "), 400), where=nir)
        results = folder / "results.npz"
        if code != 0 or not results.is_file():
            end = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
            raise ModelValidationError(f"Lava {end}: {printable(words, 600)}", where=f"Loihi simulation, {mode}")
        with np.load(results, allow_pickle=False) as file:
            rasters = [file[f"raster_{k}"] for k in range(file["totals"].shape[1])]
            return Simulation(file["counts"], file["totals"], rasters)


def _run(
    settings: Settings, folder: Path, token: str, limit_s: float, stage: str, progress: Progress
) -> tuple[int, str]:
    """Exit code and last words of the runner; its group is gone when this returns or raises."""
    ours, theirs = os.pipe()
    log = folder / "output.txt"
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)}
    with open(ours, "rb", buffering=0) as told, log.open("wb") as output:  # noqa: PTH123 - of a descriptor
        try:
            process = subprocess.Popen(
                [str(settings.loihi_python), "-I", "-m", "robustidps_loihi", str(folder), "--progress", str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"no process could be started: {error}", where=settings.loihi_python) from None
        finally:
            os.close(theirs)
        try:
            code = _wait(process, told, limit_s, stage, progress)
            if code is None:
                raise UnavailableError(
                    f"was not done within {limit_s:g} s; the last it said: {printable(_words(log))}",
                    where=stage,
                    remedy="simulate fewer rows (--rows), or allow more time (--limit)",
                )
            return code, _words(log)
        finally:
            _end(process, token)


def _wait(process: subprocess.Popen[bytes], told: Any, limit_s: float, stage: str, progress: Progress) -> int | None:
    """The exit code, None on expiry. Progress comes as lines "DONE TOTAL"."""
    started, done, total = time.monotonic(), 0, None
    while time.monotonic() - started < limit_s:
        progress(stage, done, total, unit="steps")
        ready, _, _ = select.select([told], [], [], 0.1)
        if process.poll() is not None:  # what it started may live on for a while, and tell how far it is
            return process.returncode
        if not ready:
            continue
        lines = told.read(65536).split(b"\n")
        if lines == [b""]:  # nobody holds the other end any more
            try:
                code = process.wait(timeout=max(0.1, limit_s - (time.monotonic() - started)))
            except subprocess.TimeoutExpired:
                return None
            return code
        words = lines[-2].split() if len(lines) > 1 else []
        if len(words) == 2 and all(word.isdigit() for word in words):
            done, total = int(words[0]), int(words[1])
    return None


def _end(process: subprocess.Popen[bytes], token: str) -> None:
    """Ends the whole group: asked first, then insisted; then takes away what shared memory bears the run's name."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for left in _SHARED.glob(f"{token}-*"):
        left.unlink(missing_ok=True)


def _words(log: Path) -> str:
    """The last lines that the runner and Lava wrote."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-3:]) or "nothing"
