"""The flow `auto_update` on a Prefect server of its own: a transaction for each model, and no two at once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_API_URL, temporary_settings

from robustidps.errors import StorageError, UnavailableError, UpdateError
from robustidps.flows import auto_update as flow_module
from robustidps.flows.auto_update import auto_update
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import use_settings
from robustidps.testing.remote import URL, MemoryRemote
from robustidps.updates import installing
from tests.updates.site import ALL, NOT, installation, lessons


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from prefect.server.api.server import SubprocessASGIServer

    running = SubprocessASGIServer()
    running.start(timeout=180)
    with temporary_settings({PREFECT_API_URL: running.api_url}):
        yield running.api_url
    running.stop()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """1.0.0 never learnt, 1.1.0 did, 1.2.0 never did."""
    return lessons(tmp_path_factory.mktemp("bundles"), {"1.0.0": NOT, "1.1.0": ALL, "1.2.0": NOT})


@pytest.fixture
def site(tmp_path, bundles, monkeypatch, server):
    """An installation with 1.0.0 in production, and a remote registry in memory that offers nothing yet."""
    registry = installation(tmp_path / "home", bundles["1.0.0"].path, remote_registry_url=(URL,))
    memory = MemoryRemote()
    seen = memory.registry(registry.settings.home)

    def offer(version: str) -> None:
        memory.add(bundles[version])
        memory.publish()

    for module in ("robustidps.flows.auto_update", "robustidps.tasks.updates"):
        monkeypatch.setattr(f"{module}.ModelRegistry", lambda **unused: registry)
    monkeypatch.setattr(installing, "open_remote", lambda settings: seen)
    with use_settings(registry.settings):
        yield SimpleNamespace(registry=registry, offer=offer, memory=memory, seen=seen)


def actions(site) -> list[tuple]:
    return [(d.action, d.version, d.to_stage) for d in site.registry.history("toy")][2:]


def test_a_good_update_is_activated_and_what_is_worse_is_a_result(site):
    site.offer("1.1.0")
    found = auto_update()["toy"]
    assert (found["outcome"], found["version"], found["current"]) == ("activated", "1.1.0", "1.0.0")
    assert found["measured"].startswith("+")
    assert site.registry.assignment("toy").production == "1.1.0"
    site.offer("1.2.0")
    found = auto_update()["toy"]
    assert found["outcome"] == "refused" and "gain accuracy" in found["reasons"][0]
    assert actions(site)[-1] == ("turn_away", "1.2.0", "None")
    assert auto_update()["toy"]["outcome"] == "none"
    assert not list((site.registry.settings.home / "updates" / "work").iterdir())
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("auto-update-toy").limit == 1


def test_what_breaks_after_staging_is_undone_whatever_it_is_and_tried_again(site, monkeypatch):
    site.offer("1.1.0")

    def broken(*args, **kwargs):
        raise ZeroDivisionError("a defect of ours")

    with monkeypatch.context() as patch:
        patch.setattr(installing, "activate", broken)
        with pytest.raises(ZeroDivisionError):
            auto_update()
    assert actions(site) == [
        ("register", "1.1.0", "None"),
        ("promote", "1.1.0", "Staging"),
        ("archive", "1.1.0", "Archived"),
    ]
    assert site.registry.history("toy")[-1].reasons == ("a later step of the update failed",)
    assert site.registry.assignment("toy").production == "1.0.0"
    real = ModelRegistry.transition

    def full(self, name, version, stage, **options):
        if stage == "Production":
            raise StorageError("the disk is full")
        return real(self, name, version, stage, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "transition", full)
        with pytest.raises(StorageError):
            auto_update()
    assert actions(site)[-2:] == [("promote", "1.1.0", "Staging"), ("archive", "1.1.0", "Archived")]  # once
    assert auto_update()["toy"]["outcome"] == "activated"
    assert site.registry.verify("toy").ok


@pytest.mark.long
def test_two_runs_never_overlap(site):
    site.offer("1.1.0")
    with installing.working_on(site.registry, "toy"):  # without a server, or from another program
        assert auto_update()["toy"]["outcome"] == "held"
    with concurrency("auto-update-toy", occupy=1, strict=True):  # the limit that the run before has made
        found = auto_update()["toy"]
    assert found["outcome"] == "held" and "another run is at it" in found["reasons"][0]
    assert actions(site) == []
    assert auto_update()["toy"]["outcome"] == "activated"


@pytest.mark.long
def test_a_registry_that_cannot_be_trusted_or_a_server_that_is_away_fails_the_run(site):
    site.offer("1.1.0")
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(UnavailableError, match="Prefect's server"),
        flow_module._alone("toy"),
    ):
        pass
    site.seen.fetcher.answers["metadata/timestamp.json"] = b"rubbish"
    with pytest.raises(UpdateError):
        auto_update()
    assert actions(site) == [("turn_away", None, "None")]
