"""What travels to other processes, what stays behind, and what is refused before anything travels."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustidps.errors import ConfigError
from robustidps.settings import Settings, get_settings
from robustidps.workers import at_once, carried, check_place, demand_shared, is_loopback, received

SECRET = {
    "database_url": "postgresql://idps:hunter2@db/idps",
    "mlflow_tracking_uri": "http://idps:hunter3@mlflow:5000",
}


@pytest.mark.parametrize("place", [None, "off", "local", "tcp://10.0.0.7:8786", "tls://[::1]:8786"])
def test_a_place_to_train_in_passes(place: str | None) -> None:
    check_place(place)


@pytest.mark.parametrize(
    "place", ["", "yes", "10.0.0.7:8786", "inproc://1", "tcp://host", "tcp://u:p@host:1", "local\n"]
)
def test_anything_else_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match="no place to train in"):
        check_place(place)
    with pytest.raises(ValueError, match="dask"):
        Settings(dask=place)


def test_as_many_run_at_once_as_there_are_cores_memory_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert at_once(20) == 8 and at_once(3) == 3 and at_once(20, 5) == 5
    assert at_once(20, memory=7 << 30) == 3 and at_once(20, memory=1 << 30) == 1


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tls://[::1]:1", "tcp://localhost:1"])
def test_loopback_may_use_what_is_for_one_machine(address: str, tmp_path: Path) -> None:
    assert is_loopback(address)
    demand_shared(address, Settings(home=tmp_path), None)


def test_a_cluster_elsewhere_is_refused_sqlite_and_a_prefect_server_of_this_process(tmp_path: Path) -> None:
    address = "tls://10.0.0.7:8786"
    with pytest.raises(ConfigError, match=r"database_url.*SQLite"):
        demand_shared(address, Settings(home=tmp_path), "http://prefect:4200/api")
    shared = Settings(home=tmp_path, **SECRET)
    for orchestrator in (None, "http://127.0.0.1:4200/api"):
        with pytest.raises(ConfigError, match="PREFECT_API_URL"):
            demand_shared(address, shared, orchestrator)
    demand_shared(address, shared, "http://prefect:4200/api")


def test_settings_are_in_force_where_they_arrive_and_gone_afterwards(tmp_path: Path) -> None:
    sent = carried(Settings(home=tmp_path, author="ada", alerts_per_analyst=9, **SECRET), "tls://10.0.0.7:8786")
    before = get_settings()
    with received(sent) as settings:
        assert get_settings() is settings
        assert (settings.home, settings.author, settings.alerts_per_analyst) == (tmp_path, "ada", 9)
        assert settings.database_url == SECRET["database_url"]
    assert get_settings() is before


def test_a_password_stays_behind_on_plain_tcp_and_is_taken_from_the_workers_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = carried(Settings(home=tmp_path, **SECRET), "tcp://10.0.0.7:8786")
    assert "hunter" not in str(sent)
    with pytest.raises(ConfigError, match="ROBUSTIDPS_DATABASE_URL"), received(sent):
        pass
    for key, value in SECRET.items():
        monkeypatch.setenv(f"ROBUSTIDPS_{key.upper()}", value)
    with received(sent) as settings:
        assert settings.database_url == SECRET["database_url"]
        assert settings.mlflow_tracking_uri == SECRET["mlflow_tracking_uri"]


def test_a_home_that_the_worker_can_not_see_is_refused_and_not_made(tmp_path: Path) -> None:
    sent = carried(Settings(home=tmp_path / "nowhere"), "local")
    with pytest.raises(ConfigError, match="share the home folder"), received(sent):
        pass
    assert not (tmp_path / "nowhere").exists()
