"""What all tests share: real data where it is there, a home of their own, and a watch on unpickling."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from robustidps.settings import Settings, use_settings
from tests.faults.table import pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401 - hooks

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


def pytest_addoption(parser):
    parser.addoption("--write-faults", action="store_true", help="write the table of faults into docs/reliability.md")


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
def mlflow_template(tmp_path_factory) -> Path:
    """An empty MLflow database with its tables; making them takes seconds, so that all workers share one."""
    from robustidps.registry.registry import ModelRegistry

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    target = shared / "mlflow-template.db"
    with FileLock(shared / "mlflow-template.lock"):
        if not target.exists():
            home = shared / "mlflow-template"
            ModelRegistry(settings=Settings(home=home)).tracking.ping()
            shutil.copy(home / "mlflow.db", target)
    return target


class OwnPostgreSQL:
    """A PostgreSQL of its own in a fresh folder, reached through a socket there: the distribution's, by `pg_ctl`."""

    def __init__(self, pg_ctl: Path, folder: Path) -> None:
        self.bin, self.folder = pg_ctl.parent, folder
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self.user:
            shutil.chown(folder, self.user)
        self._run("initdb", "--auth=trust", "--username=postgres", "--pgdata", str(folder / "data"))
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "-D", str(folder / "data"), "-l", str(folder / "log"), "-o", options, "-w", "start")

    def _run(self, program: str, *words: str) -> None:
        subprocess.run([str(self.bin / program), *words], check=True, capture_output=True, user=self.user, cwd="/")

    def psql(self, command: str) -> None:
        self._run("psql", "-h", str(self.folder), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", command)

    def get_uri(self, database: str) -> str:
        return f"postgresql://postgres:@/{database}?host={self.folder}"

    def cleanup(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def postgresql():
    """A real PostgreSQL: from the wheel `pgserver`, or the one whose `pg_ctl` ROBUSTIDPS_TEST_PG_CTL names."""
    # Not below pytest's folder: run by root, PostgreSQL runs as a user who may not look in there.
    folder = Path(tempfile.mkdtemp(prefix="robustidps-postgresql-"))
    if own := os.environ.get("ROBUSTIDPS_TEST_PG_CTL"):
        running = OwnPostgreSQL(Path(own), folder)
    else:
        try:
            import pgserver
            import psycopg  # noqa: F401 - the driver
        except ImportError as error:
            missing_part(f"no PostgreSQL: {error}")
        running = pgserver.get_server(folder)
        running.psql("ALTER SYSTEM SET fsync = off;")
        running.psql("SELECT pg_reload_conf();")
    yield running
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgresql):
    """Makes an empty database on the real PostgreSQL each time it is called; its address."""

    def make() -> str:
        name = f"test_{secrets.token_hex(6)}"
        postgresql.psql(f"CREATE DATABASE {name};")
        return postgresql.get_uri(database=name)

    return make


@pytest.fixture(scope="session")
def has_trigrams(postgresql) -> bool:
    """Whether this PostgreSQL has what Prefect's tables need; the wheel's doesn't, the distribution's does."""
    import psycopg

    with psycopg.connect(postgresql.get_uri(database="postgres")) as connection:
        rows = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'").fetchall()
    return bool(rows)


@pytest.fixture(scope="module")
def s3():
    """An S3 that answers over HTTP on loopback, and the environment that leads there."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="robustidps")
        yield client
    server.stop()


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
