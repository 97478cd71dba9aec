"""Lava itself: that it computes what we think, and that nothing of it is left when it ends, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from robustidps.errors import BundleError, ModelValidationError, UnavailableError
from robustidps.loihi import runner
from robustidps.loihi.emulator import emulate
from robustidps.loihi.quantising import quantise
from robustidps.loihi.runner import installed, simulate
from robustidps.loihi.subject import encode
from robustidps.nir import write_nir
from robustidps.settings import Settings
from tests.loihi.conftest import random_network, random_rows
from tests.loihi.test_quantising import float_counts

real = pytest.mark.real


@real
def test_floating_point_is_the_network_spike_for_spike(lava, network, nir_file) -> None:
    x = random_rows(33)
    found = simulate(lava, nir_file, encode(network, x), batch=8, raster=3)  # 5 rounds, the last one not full
    assert np.array_equal(found.counts, float_counts(network, x)) and found.counts.std() > 0
    sums = np.stack([raster.sum(axis=(1, 2)) for raster in found.rasters], axis=1)
    assert np.array_equal(sums, found.totals[:3]) and found.rasters[0].shape == (3, network.steps, 24)


@real
def test_fixed_point_is_the_emulator_spike_for_spike(lava, network, nir_file) -> None:
    quantised = quantise(network)
    data, _ = quantised.inputs(network, random_rows(33))
    found = simulate(lava, nir_file, data, integers=quantised.arrays(), batch=8, raster=3)
    expected = emulate(quantised, data, raster=3).simulation
    assert np.array_equal(found.counts, expected.counts) and np.array_equal(found.totals, expected.totals)
    assert all(np.array_equal(a, b) for a, b in zip(found.rasters, expected.rasters, strict=True))


@real
@pytest.mark.parametrize("fixed", [False, True], ids=["float", "fixed"])
def test_many_samples_at_once_are_what_lavas_own_processes_say_one_by_one(lava, network, nir_file, fixed) -> None:
    quantised = quantise(network)
    x = random_rows(2, seed=7)
    data = quantised.inputs(network, x)[0] if fixed else encode(network, x)
    arrays = quantised.arrays() if fixed else {}
    folder = nir_file.parent
    np.savez(folder / "inputs.npz", data=data, **arrays)
    (folder / "request.json").write_text(json.dumps({"mode": "fixed" if fixed else "float"}))
    command = [str(lava.loihi_python), "-I", "-m", "robustidps_loihi.one_by_one", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    alone = np.load(folder / "one_by_one.npz")["counts"]
    together = simulate(lava, nir_file, data, integers=arrays or None).counts
    assert np.array_equal(alone, together) and together.sum() > 0


@real
def test_a_graph_is_read_by_its_edges_not_by_the_order_of_its_names(lava, tmp_path) -> None:
    import nir

    network, x = random_network(), random_rows(5)
    write_nir(tmp_path / "plain.nir", network)
    graph = nir.read(tmp_path / "plain.nir")
    called = dict(zip(graph.nodes, "qwzyxvutsr", strict=False))
    meta = graph.metadata
    graph = nir.NIRGraph(
        nodes={called[name]: node for name, node in graph.nodes.items()},
        edges=[(called[a], called[b]) for a, b in reversed(graph.edges)],
    )
    graph.metadata = meta
    nir.write(tmp_path / "renamed.nir", graph)
    found = simulate(lava, tmp_path / "renamed.nir", encode(network, x))
    assert np.array_equal(found.counts, float_counts(network, x))


@real
def test_inputs_that_do_not_fit_are_refused_by_the_runner(lava, nir_file) -> None:
    with pytest.raises(BundleError, match=r"inputs of shape \(4, 5\)"):
        simulate(lava, nir_file, np.zeros((4, 5)))


@real
def test_a_crash_ends_with_its_last_words(lava, tmp_path) -> None:
    (tmp_path / "model.nir").write_bytes(b"no graph")
    with pytest.raises(ModelValidationError, match=r"ended with 1: .*(file signature|Unable)"):
        simulate(lava, tmp_path / "model.nir", np.zeros((4, 6)))


@pytest.fixture
def long_run(lava, tmp_path, monkeypatch):
    """A run of a minute or more, and what it takes up while it goes on."""
    monkeypatch.setattr(runner.secrets, "token_hex", lambda n: f"{os.getpid():012d}")
    network = random_network(steps=1000)
    write_nir(tmp_path / "model.nir", network)
    data = encode(network, random_rows(20_000))
    seen: dict[str, set] = {"processes": set(), "memory": set()}

    def run(act=lambda processes: None, limit_s=120.0):
        def progress(stage, done, total=None, *, unit="", note=""):
            if done:
                seen["processes"] |= set(psutil.Process().children(recursive=True))
                seen["memory"] |= set(Path("/dev/shm").glob(f"robustidps-{os.getpid():012d}-*"))  # noqa: S108
                act(seen["processes"])

        simulate(lava, tmp_path / "model.nir", data, limit_s=limit_s, progress=progress)

    yield run
    assert len(seen["processes"]) >= 8 and seen["memory"], "it never got going"
    deadline = time.monotonic() + 10
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in seen["processes"]):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)
    assert not any(path.exists() for path in seen["memory"])


@real
def test_after_the_time_limit_nothing_is_left(long_run, monkeypatch) -> None:
    late = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (1e6 if late else 0.0))
    monkeypatch.setattr(runner, "time", clock)  # a real limit would be over before a busy machine gets going
    with pytest.raises(UnavailableError, match="not done within 120 s"):
        long_run(late.append)


@real
def test_after_ctrl_c_nothing_is_left(long_run) -> None:
    def interrupt(processes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        long_run(interrupt)


@real
@pytest.mark.parametrize("which", ["the runner itself", "one of Lava's processes"])
def test_when_a_process_is_killed_the_others_end_too(long_run, which) -> None:
    killed = []

    def kill(processes):
        if len(processes) >= 8 and not killed:
            first_to_last = sorted(processes, key=lambda p: p.create_time())
            killed.append(first_to_last[0 if which == "the runner itself" else -1])
            killed[0].send_signal(signal.SIGKILL)

    with pytest.raises(ModelValidationError, match=r"ended by signal (9|15)"):
        long_run(kill)


def fake(folder: Path, says: str, code: int = 0) -> Settings:
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    python.chmod(0o755)
    return Settings(home=folder, loihi_python=python)


def test_a_missing_environment_is_named_with_what_makes_it(tmp_path) -> None:
    with pytest.raises(UnavailableError, match="isn't set up") as error:
        installed(Settings(home=tmp_path, loihi_python=tmp_path / "none" / "python"))
    assert "make loihi" in (error.value.remedy or "")


@pytest.mark.parametrize(
    ("says", "code", "words"),
    [
        ('{"protocol": 1, "lava-nc": "0.9.0", "python": "3.10.13"}', 0, "lava-nc 0.9.0, and 0.10.0"),
        ('{"protocol": 7, "lava-nc": "0.10.0", "python": "3.10.13"}', 0, "protocol 7"),
        ("No module named robustidps_loihi", 1, "No module named"),
        ("[]", 0, "can't simulate"),
        ("nonsense", 0, "can't simulate"),
    ],
)
def test_an_environment_of_another_kind_is_refused(tmp_path, says, code, words) -> None:
    with pytest.raises(UnavailableError, match=words):
        installed(fake(tmp_path, says, code))


def test_doctor_lists_it(tmp_path) -> None:
    from robustidps.doctor import _loihi

    assert _loihi(Settings(home=tmp_path, loihi_python=tmp_path / "none")).status == "warn"
    assert "0.9.0" in _loihi(fake(tmp_path, '{"protocol": 1, "lava-nc": "0.9.0"}')).text
    good = _loihi(fake(tmp_path, '{"protocol": 1, "lava-nc": "0.10.0", "python": "3.10.1"}'))
    assert (good.status, good.text) == ("ok", "lava-nc 0.10.0, Python 3.10.1")
