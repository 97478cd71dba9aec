"""What all tests share: real data where it is there, a home of their own, and a watch on unpickling."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

from robustidps.settings import Settings, use_settings

# How long an example takes says something about the machine, and nothing about the code.
hypothesis.settings.register_profile("robustidps", deadline=None)
hypothesis.settings.load_profile("robustidps")

# Prefect reads its environment when it is imported: nothing of a test run may land in the user's own home.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="robustidps-prefect-")
os.environ["PREFECT_LOCAL_STORAGE_PATH"] = os.path.join(os.environ["PREFECT_HOME"], "results")  # noqa: PTH118
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "180"  # two busy cores
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


def missing_part(reason: str) -> None:
    """Skips visibly where a real part is missing; fails under REQUIRE_REAL_PARTS=1."""
    if os.environ.get("REQUIRE_REAL_PARTS") == "1":
        pytest.fail(f"a real part is missing: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout (nsl_kdd, captures, ciciot2023)."""
    if not SHARED.is_dir():
        missing_part(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture
def home(tmp_path: Path):
    """An empty installation of its own, in force for the test."""
    with use_settings(Settings(home=tmp_path / "home")) as settings:
        yield settings.home


@pytest.fixture(scope="session")
def example_plugin(tmp_path_factory) -> Path:
    """A folder that the example package was installed into, as pip does it, from a copy of its source."""
    source = tmp_path_factory.mktemp("source") / "robustidps-lda"
    shutil.copytree(ROOT / "examples" / "robustidps-lda", source)
    target = tmp_path_factory.mktemp("site")
    words = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *words, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target


# --- Nothing in the system unpickles. Libraries of others may, in these modules, on data that never came from a user.
ALLOWED_UNPICKLERS = (
    "multiprocessing",  # its own pipes, between processes of one program
    "concurrent/futures",
    "execnet",
    "xdist",
    "cloudpickle",
)
_unpickled: list[str] = []


def _watch(event: str, args: tuple) -> None:
    if event != "pickle.find_class":
        return
    frame = sys._getframe(1)
    stack = []
    while frame is not None:
        stack.append(frame.f_code.co_filename)
        frame = frame.f_back
    if not any(allowed in file for file in stack[:12] for allowed in ALLOWED_UNPICKLERS):
        _unpickled.append(f"{args} from {stack[:6]}")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def no_unpickling():
    """Fails a test in which anything outside the allow-list was unpickled."""
    del _unpickled[:]
    yield
    assert not _unpickled, f"unpickled: {_unpickled[:3]}"
