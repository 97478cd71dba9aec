"""IBM's backends: local testing mode for real; the service at the wire, with a server that answers as IBM's does.

The server knows one device, which is Qiskit's record of Manila under another name, and runs jobs on it. So everything
between `on_backend` and the socket is the real client: account from the environment, token exchange, backend, PUB.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from robustidps.errors import ConfigError, UnavailableError
from robustidps.models import _ibm
from robustidps.models._circuits import on_device
from robustidps.models._ibm import check_backend, fake_backends, on_backend

pytest.importorskip("qiskit_ibm_runtime")

TOKEN = "not-a-real-key-5b1f"  # noqa: S105
CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/0123456789abcdef:01234567-89ab-cdef-0123-456789abcdef::"
DEVICE = "ibm_nowhere"


def circuit(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-3, 3, (rows, 4)), rng.uniform(0, 6, (3, 4, 3))


# --- local testing mode


def test_a_simulated_backend_adds_its_devices_noise_to_one_job_of_all_rows():
    angles, weights = circuit()
    exact = on_device("default.qubit", angles, weights)
    measured, facts = on_backend("fake_manila", angles, weights, 4000, 0)
    error = np.abs(measured - exact)
    assert 0.01 < error.mean() < 0.2  # without noise, 4000 shots would leave about 0.01
    # Noise pulls expectations towards 0; a wrong order of qubits would not.
    assert np.corrcoef(measured.ravel(), exact.ravel())[0, 1] > 0.9
    assert (facts["backend"], facts["shots"], facts["seed"]) == ("fake_manila", 4000, 0)
    assert facts["depth"] > 20 and facts["two_qubit_gates"] >= 12 and facts["job"]
    again, _ = on_backend("fake_manila", angles, weights, 4000, 0)
    assert (again == measured).all()


def test_backends_that_are_not_there_or_too_small_are_errors_before_anything_runs():
    with pytest.raises(ConfigError, match=r"fake_atlantis.*fake_manila"):
        check_backend("fake_atlantis", 4)
    with pytest.raises(ConfigError, match="the circuit has 6 qubits, the backend 5"):
        check_backend("fake_manila", 6)
    assert {"fake_manila", "fake_sherbrooke"} <= set(fake_backends())


# --- the service


class Service(ThreadingHTTPServer):
    """What the client asks IBM for. `finish`: whether jobs end; `calls`: what was asked, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        from qiskit_ibm_runtime.fake_provider import FakeManilaV2

        self.device = FakeManilaV2()
        folder = Path(FakeManilaV2.dirname)
        self.configuration = json.loads((folder / FakeManilaV2.conf_filename).read_text()) | {"backend_name": DEVICE}
        self.properties = json.loads((folder / FakeManilaV2.props_filename).read_text()) | {"backend_name": DEVICE}
        self.finish, self.calls, self.job, self.cancelled = True, [], {}, False
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def result(self) -> str:
        from qiskit.primitives import BackendEstimatorV2
        from qiskit_ibm_runtime.json import RuntimeDecoder, RuntimeEncoder

        params = json.loads(json.dumps(self.job["params"]), cls=RuntimeDecoder)
        shots = params["options"]["default_shots"]
        estimator = BackendEstimatorV2(backend=self.device, options={"seed_simulator": 1})
        pubs = [tuple(pub) for pub in params["pubs"]]
        answer = estimator.run(pubs, precision=(1 + 1e-12) / shots**0.5).result()
        return json.dumps(answer, cls=RuntimeEncoder)


class Answer(BaseHTTPRequestHandler):
    server: Service

    def _say(self, content: object, status: int = 200) -> None:
        data = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data.encode())))
        self.end_headers()
        self.wfile.write(data.encode())

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, *unused: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/experimental")
        server = self.server
        server.calls.append(f"GET {path}")
        server.headers.append(dict(self.headers))
        status = "Cancelled" if server.cancelled else "Completed" if server.finish else "Queued"
        job = {
            "id": "job-1",
            "backend": DEVICE,
            "status": status,
            "state": {"status": status},
            "program": {"id": "estimator"},
            "params": {},
            "created": "2026-01-01T00:00:00Z",
        }
        answers = {
            "/backends": {"devices": [{"name": DEVICE, "qubits": 5, "status": {"name": "online"}}]},
            f"/backends/{DEVICE}/configuration": server.configuration,
            f"/backends/{DEVICE}/properties": server.properties,
            f"/backends/{DEVICE}/status": {"state": True, "status": "active", "message": "", "length_queue": 0}
            | {"backend_version": "1.0.0"},
            "/instances/usage": {"usage_consumed_seconds": 0, "usage_limit_seconds": 600},
            "/jobs/job-1": job,
            "/jobs/job-1/metrics": {"usage": {"seconds": 1}},
        }
        if path == "/jobs/job-1/results":
            self._say(server.result())
        else:
            self._say(
                answers.get(path, {"errors": [{"message": f"nothing at {path}"}]}), 200 if path in answers else 404
            )

    def do_POST(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/experimental")
        body = self._read()
        self.server.calls.append(f"POST {path}")
        if path == "/identity/token":
            if TOKEN.encode() not in body:
                self._say({"errorMessage": "Provided API key could not be found."}, 400)
                return
            now = int(time.time())
            claims = {"iat": now, "exp": now + 3600}
            parts = [
                base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in ({"alg": "none"}, claims)
            ]
            self._say(
                {"access_token": ".".join([*parts, "c2ln"]), "refresh_token": "", "token_type": "Bearer"}
                | {"expires_in": 3600, "expiration": now + 3600}
            )
        elif path == "/jobs":
            self.server.job = json.loads(body)
            self._say({"id": "job-1", "backend": DEVICE, "session_id": None})
        elif path == "/jobs/job-1/cancel":
            self.server.cancelled = True
            self._say({}, 204)
        else:
            self._say({"errors": [{"message": f"nothing at {path}"}]}, 404)


@pytest.fixture
def service(monkeypatch, tmp_path):
    server = Service()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("QISKIT_IBM_TOKEN", TOKEN)
    monkeypatch.setenv("QISKIT_IBM_INSTANCE", CRN)
    monkeypatch.delenv("QISKIT_IBM_CHANNEL", raising=False)
    # The client derives IBM's hosts from the URL, except where this word stands in it; and takes the instance as it is.
    monkeypatch.setenv("QISKIT_IBM_URL", f"{server.url}/experimental")
    monkeypatch.setenv("QISKIT_FUNCTIONS_EXPERIMENTAL", "1")
    monkeypatch.setenv("IAM_URL", server.url)
    monkeypatch.setattr(_ibm, "POLL_S", (0.05, 0.05))
    yield server
    server.shutdown()
    server.server_close()


def test_a_real_backend_gets_one_job_with_one_pub_of_all_rows(service):
    angles, weights = circuit(9)
    measured, facts = on_backend(DEVICE, angles, weights, 2000, 3)
    exact = on_device("default.qubit", angles, weights)
    assert np.corrcoef(measured.ravel(), exact.ravel())[0, 1] > 0.9
    assert (facts["backend"], facts["job"], facts["shots"]) == (DEVICE, "job-1", 2000)
    assert service.calls.count("POST /jobs") == 1
    assert service.job["backend"] == DEVICE and service.job["program_id"] == "estimator"
    assert len(service.job["params"]["pubs"]) == 1
    assert service.job["params"]["options"]["default_shots"] == 2000
    assert "simulator" not in service.job["params"]["options"]
    assert TOKEN not in json.dumps(service.job)
    assert any(h.get("Service-CRN") == CRN and h["Authorization"].startswith("Bearer ") for h in service.headers)


def test_giving_up_cancels_the_job(service):
    service.finish = False
    angles, weights = circuit()

    def ctrl_c(stage, done, total=None, *, unit="", note=""):
        if stage.startswith("running on"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_backend(DEVICE, angles, weights, 100, 0, ctrl_c)
    assert service.cancelled


def test_a_job_that_somebody_cancelled_is_one_error_that_names_it(service):
    service.cancelled = True
    with pytest.raises(UnavailableError, match="job-1"):
        on_backend(DEVICE, *circuit(), 100, 0)


def test_a_backend_that_the_account_does_not_have_is_named(service):
    with pytest.raises(ConfigError, match=r"ibm_atlantis: the account has no such backend"):
        check_backend("ibm_atlantis", 4)


def test_a_key_that_does_not_get_in_is_an_error_without_the_key(service, monkeypatch, caplog):
    monkeypatch.delenv("QISKIT_FUNCTIONS_EXPERIMENTAL")  # then the account's instances are asked for, where nobody is
    with pytest.raises(ConfigError, match=r"no account of IBM Quantum.*QISKIT_IBM_TOKEN") as refused:
        check_backend(DEVICE, 4)
    assert TOKEN not in str(refused.value) + caplog.text


def test_without_an_account_the_error_says_what_to_set(monkeypatch, tmp_path):
    from qiskit_ibm_runtime.accounts import management

    for name in ("QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE", "QISKIT_IBM_CHANNEL", "QISKIT_IBM_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match=r"no account of IBM Quantum.*QISKIT_IBM_TOKEN.*QISKIT_IBM_INSTANCE"):
        check_backend("ibm_torino", 4)
