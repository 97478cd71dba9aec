"""The machine itself: a full disk, a clock that is set back, two of everything at once, a process that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.registry import APPROVE
from tests.conftest import missing_part
from tests.faults.conftest import TRAIN, at, sound, trained

pytestmark = [pytest.mark.real, pytest.mark.long]


def in_small_disk(megabytes: int, folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Runs `command` in a mount namespace in which `folder` is a disk of its own, of so many megabytes.

    The disk is gone when the command has ended: what is asked of it afterwards has to be part of the command.
    """
    script = f"mount -t tmpfs -o size={megabytes}M none {folder} && {command}"
    unshare = shutil.which("unshare")
    if unshare is None:
        missing_part("no unshare: a small disk can't be made")
    probe = subprocess.run([unshare, "--map-root-user", "--mount", "true"], capture_output=True)
    if probe.returncode != 0:
        missing_part("no mount namespaces here: a small disk can't be made")
    return subprocess.run(
        [unshare, "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=280
    )


FULL = """
import json, shutil, sys
from pathlib import Path
from robustidps.errors import RobustIDPSError
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings
from robustidps.testing.registry import APPROVE
home, bundles = Path(sys.argv[1]), sys.argv[2:]
shutil.copytree(home.parent / "before", home, dirs_exist_ok=True)
registry = ModelRegistry(settings=Settings(home=home))
filler, said = home / "filler", []
with filler.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
def attempt(what, call):
    try:
        call()
        said.append([what, "done", ""])
    except RobustIDPSError as error:
        said.append([what, type(error).__name__, str(error)])
attempt("promote", lambda: registry.transition("toy", "1.1.0", "Production", verdict=APPROVE))
attempt("rollback", lambda: registry.rollback("toy"))
attempt("register", lambda: registry.register_model("toy", "1.2.0", bundles[0]))
filler.unlink()
during = [registry.assignment("toy").production, registry.verify().ok]
registry.repair()
registry.register_model("toy", "1.2.0", bundles[0])
registry.transition("toy", "1.2.0", "Production", verdict=APPROVE)
print(json.dumps({"said": said, "during": during, "after": registry.assignment("toy").production,
                  "ok": registry.verify(artifacts=True).ok}))
"""


@pytest.mark.fault("the disk full, then space again", "an error that says so; nothing half-written; all works again")
def test_the_disk_is_full(install, bundles, tmp_path):
    registry = at(tmp_path / "before").registry()
    for version in ("1.0.0", "1.1.0"):
        registry.register_model("toy", version, bundles[version])
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    home = tmp_path / "small"
    home.mkdir()
    words = [sys.executable, "-c", FULL, str(home), str(bundles["1.2.0"])]
    done = in_small_disk(24, home, " ".join(f"'{w}'" for w in words).replace("''", "'"))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    by_what = {what: (kind, text) for what, kind, text in result["said"]}
    for kind, text in by_what.values():
        assert kind == "StorageError" and "the disk is full" in text, by_what
    assert result["during"] == ["1.0.0", True] and result["ok"] and result["after"] == "1.2.0"


def under_clock(hours: float) -> dict[str, str]:
    """The environment of a process whose clock is `hours` off."""
    try:
        from libfaketime import get_reload_information
    except ImportError:
        missing_part("no libfaketime: the clock can't be set back")
    _, changes = get_reload_information()
    said = {k: str(v) for k, v in changes.items() if k.startswith(("LD_", "DYLD_", "FAKETIME", "DONT_"))}
    return said | {"FAKETIME": f"{hours:+g}h"}


@pytest.mark.fault("the clock set back by a year between two decisions", "the chain keeps the order; all checks out")
def test_the_clock_is_set_back(install, bundles):
    for version in ("1.0.0", "1.1.0"):
        assert install.command("registry", "add", "toy", version, bundles[version]).returncode == 0
    registry = install.registry()
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    done = install.command("rollback", "toy", "--reason", "the clock is wrong", "--json", **under_clock(-24 * 365))
    assert done.returncode == 0, done.stderr
    decision = json.loads(done.stdout)
    then = datetime.fromisoformat(decision["time"])
    assert then < datetime.now(UTC) - timedelta(days=300), "the clock wasn't set back"
    registry = sound(install)
    assert registry.assignment("toy").production == "1.0.0"
    assert [d.seq for d in registry.history("toy")] == sorted(d.seq for d in registry.history("toy"))
    assert registry.history("toy")[-1].action == "rollback"


@pytest.mark.fault("two schedulers that start one training and one promotion at once", "two versions, one promotion")
@pytest.mark.timeout(600)
def test_two_schedulers_at_once(install, toy_file):
    def both(*words: str, codes: set[int]) -> list[str]:
        processes = [install.start(*words) for _ in range(2)]
        outs = [p.communicate(timeout=280) for p in processes]
        assert all("Traceback" not in err for _, err in outs), outs
        assert {p.returncode for p in processes} <= codes, [
            (p.returncode, o) for p, o in zip(processes, outs, strict=True)
        ]
        return [out for out, _ in outs]

    made = [json.loads(out)["version"] for out in both(*TRAIN, "--dataset", str(toy_file), codes={0})]
    assert sorted(made) == ["1.0.0", "1.1.0"]
    both("promote", "toy", "1.0.0", "--json", codes={0, 3, 7})
    registry = sound(install)
    assert registry.assignment("toy").production == "1.0.0"
    moved = [(d.action, d.to_stage) for d in registry.history("toy") if d.action == "promote"]
    assert moved == [("promote", "Staging"), ("promote", "Production")]


@pytest.mark.fault("a training killed (SIGKILL)", "the next one is whole; nothing is in its way")
@pytest.mark.parametrize("while_at", ["training", "writing bundle", "registering"])
@pytest.mark.timeout(400)
def test_a_training_is_killed(install, toy_file, while_at):
    process = install.start(*TRAIN[:-1], "--dataset", toy_file)
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if while_at in line:
            break
    else:
        pytest.fail(f"it never said {while_at!r}: {seen[-5:]}")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    done = trained(install, toy_file, "--promote-to", "Production")
    registry = sound(install)
    assert registry.assignment("toy").production == done["version"]
    assert {v.status for v in registry.versions("toy")} <= {"registered", "reserved"}


@pytest.mark.fault(
    "a process killed (SIGKILL) while it promotes again and again", "the state before or after; all checks out"
)
def test_a_commit_is_cut_off(install, bundles):
    """Killed again and again while it promotes to and fro; each time the state is whole."""
    registry = install.registry()
    for version, bundle in bundles.items():
        registry.register_model("toy", version, bundle)
    script = (
        "import sys, itertools\nfrom pathlib import Path\n"
        "from robustidps.registry.registry import ModelRegistry\nfrom robustidps.settings import Settings\n"
        "registry = ModelRegistry(settings=Settings(home=Path(sys.argv[1])))\n"
        "for version in itertools.cycle(['1.0.0', '1.1.0', '1.2.0']):\n"
        "    if registry.assignment('toy').production != version:\n"
        "        registry.transition('toy', version, 'Production', project=False,\n"
        "            verdict={'outcome': 'promote', 'reasons': ['again']})\n"
        "        print(version, flush=True)\n"
    )
    for round_ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(install.home)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.07 * round_)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        found = ModelRegistry(settings=Settings(home=install.home))
        assert found.verify().ok
        promoted = [d for d in found.history("toy") if d.action == "promote"]
        assert promoted and found.assignment("toy").production == promoted[-1].version
    sound(install)
