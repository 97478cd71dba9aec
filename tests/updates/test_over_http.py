"""One organisation publishes, another installation updates: real commands, a real web server between them.

The server is nginx where it is installed, else the one of `conftest`; both tell how many bytes of which file went out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustidps.system.supervisor import claimed_port
from robustidps.testing.servers import started
from robustidps.updates.client import RemoteRegistry
from robustidps.updates.naming import BUNDLE
from robustidps.updates.publishing import Publisher
from tests.faults.conftest import at
from tests.updates.conftest import Server, until
from tests.updates.site import ALL, LITTLE, NOT, lessons
from tests.updates.site import installation as toy_site

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    log_format bytes '$request_uri|$http_range|$body_bytes_sent';
    access_log {folder}/access.log bytes;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""
SLOW = {"ROBUSTIDPS_UPDATES_MAX_MIB_PER_SECOND": str(8 / 1024)}


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """The server of a folder, at `root`, into which a test links what it publishes."""
    folder, root = tmp_path_factory.mktemp("web"), tmp_path_factory.mktemp("served")
    if program := shutil.which("nginx"):
        with claimed_port(0) as port:
            (folder / "nginx.conf").write_text(NGINX.format(folder=folder, root=root, port=port))
            (root / "health").touch()
            url = f"http://127.0.0.1:{port}"
            command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
            with started(command, f"{url}/health", {}, folder / "stderr.log", timeout_s=20):
                yield SimpleNamespace(url=url, root=root, answers=lambda: _nginx_answers(folder / "access.log"))
    else:
        server = Server(root)
        yield SimpleNamespace(url=server.url, root=root, answers=lambda: list(server.sent))
        server.stop()


def _nginx_answers(log: Path) -> list[tuple[str, str, int]]:
    """(path, Range header, bytes of the body) of each answer, as `Server.sent` has them."""
    lines = (line.split("|") for line in log.read_text().splitlines())
    return [(path, "" if span == "-" else span, int(size)) for path, span, size in lines]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """By version: 1.0.0 never learnt, 1.1.0 a little, 1.2.0 all there is to learn."""
    made = lessons(tmp_path_factory.mktemp("bundles"), {"1.0.0": NOT, "1.1.0": LITTLE, "1.2.0": ALL})
    return {version: bundle.path for version, bundle in made.items()}


@pytest.fixture
def publisher(web, tmp_path) -> Publisher:
    """A repository with nothing in it, served under the name of the test's folder."""
    made = Publisher(tmp_path / "publisher", passphrase=lambda name, new: b"correct horse battery")
    made.init()
    (web.root / tmp_path.name).symlink_to(made.folder / "public")
    return made


def installation(home: Path, mirrors: str, bundles, mlflow_template: Path | None = None) -> SimpleNamespace:
    """An installation of its own with 1.0.0 in production and held-out traffic; `command` runs in it.

    mlflow_template: what its embedded MLflow begins with; None: what MLflow would keep stays in this process's memory.
    """
    home.mkdir()
    (home / "settings.yaml").write_text("updates_rules: {toy: toy_update}\nenable_auto_update: true\n")
    if mlflow_template:
        shutil.copy(mlflow_template, home / "mlflow.db")
    toy_site(home, bundles["1.0.0"], mlflow=mlflow_template is not None)
    return at(home, ROBUSTIDPS_REMOTE_REGISTRY_URL=mirrors)


def ran(install: SimpleNamespace, *words: object):
    """What `robustidps updates ..` prints as JSON."""
    done = install.command("updates", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def versions(found: list[dict]) -> list[str]:
    return [update["new_version"] for update in found]


def test_a_killed_download_goes_on_where_it_ended_and_updates_go_on_under_a_new_root_key(
    web, publisher, bundles, mlflow_template, tmp_path
):
    url = f"{web.url}/{tmp_path.name}"
    site = installation(tmp_path / "site", url, bundles, mlflow_template)
    status = publisher.status()
    said = ran(site, "trust", status.root, "--fingerprint", status.fingerprint)
    assert said == {"fingerprint": status.fingerprint, "mirrors": [url]}
    publisher.add(bundles["1.1.0"], with_real_rows=True)
    asked = len(web.answers())
    [update] = ran(site, "check")
    assert (update["current_version"], update["new_version"]) == ("1.0.0", "1.1.0")
    assert update["performance_metrics"]["accuracy_gain"] > 2
    assert not [path for path, _, _ in web.answers()[asked:] if "/targets/" in path]  # no model to ask for one

    size, partial = update["offer"]["size"], site.home / "updates" / "partial" / update["offer"]["sha256"]
    process = site.start("updates", "install", "toy", "1.1.0", **SLOW)
    until(lambda: partial.is_file() and partial.stat().st_size > size / 4, 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = partial.stat().st_size
    assert size / 4 < have < size
    assert [v.version for v in site.registry().versions("toy")] == ["1.0.0"]

    asked = len(web.answers())
    outcome = ran(site, "install", "toy", "1.1.0", "--activate")
    assert outcome["outcome"] == "activated" and outcome["measured"].startswith("+")
    sent = [(span, count) for path, span, count in web.answers()[asked:] if path.endswith(BUNDLE)]
    assert sent == [(f"bytes={have}-", size - have)]
    assert not partial.exists() and not list((site.home / "updates" / "quarantine").iterdir())

    publisher.make_key("offline-4")
    publisher.rotate_key(None, "offline-1", "offline-4")
    publisher.add(bundles["1.2.0"], with_real_rows=True)
    assert publisher.status().root.name == "2.root.json"
    outcome = ran(site, "run")["toy"]
    assert (outcome["outcome"], outcome["version"], outcome["current"]) == ("activated", "1.2.0", "1.1.0"), outcome
    assert json.loads((site.home / "updates/trusted/root_history/2.root.json").read_bytes())["signed"]["version"] == 2

    registry = site.registry()
    assert (registry.assignment("toy").production, registry.assignment("toy").previous) == ("1.2.0", "1.1.0")
    assert registry.verify("toy", artifacts=True).ok
    registered = [d for d in registry.history("toy") if d.action == "register"][-1]
    provenance = registered.evidence["provenance"]
    assert (provenance["root_version"], provenance["mirror"]) == (2, url)
    assert registry.tracking.aliases("toy", ("production", "previous")) == {"production": "3", "previous": "2"}


def test_a_mirror_that_is_down_is_passed_over_and_a_revoked_version_is_no_longer_offered(
    web, publisher, bundles, tmp_path
):
    publisher.add_many([bundles["1.1.0"], bundles["1.2.0"]], with_real_rows=True)
    with claimed_port(0) as nobody:
        url = f"{web.url}/{tmp_path.name}"
        site = installation(tmp_path / "site", f"http://127.0.0.1:{nobody},{url}", bundles)
        RemoteRegistry(site.home, [url]).trust(publisher.status().root.read_bytes())
        found = ran(site, "check", "--all")
        assert versions(found) == ["1.1.0", "1.2.0"]
        assert {update["offer"]["mirror"] for update in found} == {url}
        publisher.revoke("toy", "1.2.0")
        assert versions(ran(site, "check", "--all")) == ["1.1.0"]


FLOW = """
from robustidps.cli._app import ready_flows
ready_flows()
from robustidps.flows.auto_update import auto_update
import json
print("\\n" + json.dumps(auto_update()))
"""


@pytest.mark.long
def test_the_flow_of_the_schedule_takes_the_same_update(web, publisher, bundles, mlflow_template, tmp_path):
    """As `robustidps updates run` does while Prefect's server is up; here Prefect starts one for the run."""
    publisher.add(bundles["1.1.0"], with_real_rows=True)
    url = f"{web.url}/{tmp_path.name}"
    site = installation(tmp_path / "site", url, bundles, mlflow_template)
    RemoteRegistry(site.home, [url]).trust(publisher.status().root.read_bytes())
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ROBUSTIDPS_", "PREFECT_", "MLFLOW_"))}
    env = clean | site.env | {"ROBUSTIDPS_HOME": str(site.home)}
    done = subprocess.run([sys.executable, "-c", FLOW], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    [outcome] = json.loads(done.stdout.splitlines()[-1]).values()
    assert (outcome["outcome"], outcome["version"]) == ("activated", "1.1.0"), outcome
    assert site.registry().assignment("toy").production == "1.1.0"
