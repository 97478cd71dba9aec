"""Handles follow what is in production in this process: under load, without a failed call, and whole or not at all."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

from robustidps.errors import BundleError, ModelValidationError
from robustidps.registry import live
from robustidps.registry.ledger import Decision
from robustidps.registry.registry import ModelRegistry
from robustidps.testing.registry import APPROVE, REFUSE
from robustidps.testing.traffic import toy_traffic

X = toy_traffic(64, seed=1).features
SWAPS, THREADS = 40, 4


def yes(*unused):
    return APPROVE


def swap(registry: ModelRegistry, version: str, **options) -> Decision:
    return registry.hot_swap_model("toy", version, judge=yes, **options)


@pytest.fixture
def serving(stocked):
    """The stocked registry with 1.0.0 in Production."""
    stocked.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    return stocked


def test_forty_swaps_under_load_fail_no_call_and_each_answer_is_one_of_the_two_versions(serving):
    answers = [serving.load_model("toy", v)(X) for v in ("1.0.0", "1.1.0")]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    handle, done = serving.load_model("toy", "production"), threading.Event()
    seen, failures = [[0, 0] for _ in range(THREADS)], []

    def ask(mine: list[int]) -> None:
        while not done.is_set():
            try:
                said = handle(X)
                mine[[np.array_equal(said, a) for a in answers].index(True)] += 1
            except Exception as error:  # noqa: BLE001 - whatever a caller would see
                failures.append(error)
                return

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    try:
        for number in range(SWAPS):
            swap(serving, ("1.1.0", "1.0.0")[number % 2])
            assert np.array_equal(handle(X), answers[(number + 1) % 2])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert all(sum(mine) for mine in seen) and all(sum(column) for column in zip(*seen, strict=True))


def test_handles_asked_for_by_role_follow_and_those_by_number_stay(serving):
    by = {role: serving.load_model("toy", role) for role in ("production", "latest", "1.0.0")}
    swap(serving, "1.1.0")
    assert {role: handle.version for role, handle in by.items()} == {
        "production": "1.1.0",
        "latest": "1.1.0",
        "1.0.0": "1.0.0",
    }
    assert by["production"].digest == serving.version("toy", "1.1.0").digest == by["production"].metadata.checksum
    swap(serving, "1.0.0")  # back by the guide's way: `latest` goes along
    assert by["latest"].version == by["production"].version == "1.0.0"
    assert by["1.0.0"].role is None and "follows latest" in repr(by["latest"])


def test_a_rollback_and_a_promotion_by_rules_are_followed_too(serving):
    handle = serving.load_model("toy", "production")
    serving.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    assert handle.version == "1.1.0"
    serving.rollback("toy")
    assert handle.version == "1.0.0"


def test_a_handle_of_staging_follows_staging(serving):
    serving.transition("toy", "1.1.0", "Staging", verdict=APPROVE)
    staged, served = serving.load_model("toy", "staging"), serving.load_model("toy", "production")
    serving.transition("toy", "1.2.0", "Staging", verdict=APPROVE)
    assert (staged.version, served.version) == ("1.2.0", "1.0.0")


def test_a_swap_in_one_registry_object_reaches_handles_of_another_on_the_same_home(serving):
    second = ModelRegistry(settings=serving.settings, tracking=serving.tracking)
    handle = second.load_model("toy", "production")
    swap(serving, "1.1.0")
    assert handle.version == "1.1.0"


def test_another_installation_is_not_reached(serving, tmp_path_factory):
    import shutil

    from robustidps.testing.registry import memory_registry

    home = tmp_path_factory.mktemp("other") / "home"
    shutil.copytree(serving.settings.home, home)
    handle = memory_registry(home).load_model("toy", "production")
    swap(serving, "1.1.0")
    assert handle.version == "1.0.0"


@pytest.mark.parametrize("why", ["validation_fn", "rules", "edited bundle"])
def test_a_swap_that_fails_leaves_the_old_version_answering(serving, why):
    handle = serving.load_model("toy", "production")
    before, version = handle(X), serving.version("toy", "1.1.0")
    if why == "validation_fn":
        with pytest.raises(ModelValidationError, match="validation_fn"):
            swap(serving, "1.1.0", validation_fn=lambda model: False)
    elif why == "rules":
        with pytest.raises(ModelValidationError, match="accuracy"):
            serving.hot_swap_model("toy", "1.1.0", judge=lambda *_: REFUSE)
    else:
        graph = serving.cache.path(version.digest) / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
        with pytest.raises(BundleError, match="changed"):
            swap(serving, "1.1.0")
    assert serving.assignment("toy").production == handle.version == "1.0.0"
    assert np.array_equal(handle(X), before)


def test_a_call_that_is_running_ends_on_the_version_that_it_began_with(serving):
    handle = serving.load_model("toy", "production")
    old, inside, go = handle.now, threading.Event(), threading.Event()

    class Slow:
        def probabilities(self, x):
            inside.set()
            assert go.wait(30)
            return old.bundle.probabilities(x)

    handle._now = live.Loaded(old.version, Slow())
    answers = []
    caller = threading.Thread(target=lambda: answers.append(handle(X)))
    caller.start()
    assert inside.wait(30)
    swap(serving, "1.1.0")
    new = handle(X)
    go.set()
    caller.join()
    assert np.array_equal(answers[0], old.bundle.probabilities(X)) and not np.array_equal(answers[0], new)


def test_coroutines_call_a_handle_while_it_is_swapped(serving):
    handle = serving.load_model("toy", "latest")
    answers = [serving.load_model("toy", v)(X) for v in ("1.0.0", "1.1.0")]

    async def detect() -> np.ndarray:
        await asyncio.sleep(0)
        return await asyncio.to_thread(handle, X)

    async def all_at_once() -> list:
        asked = [asyncio.create_task(detect()) for _ in range(20)]
        await asyncio.to_thread(swap, serving, "1.1.0")
        return [*await asyncio.gather(*asked), handle(X)]

    said = asyncio.run(all_at_once())
    assert all(any(np.array_equal(one, a) for a in answers) for one in said)
    assert np.array_equal(said[-1], answers[1])


def test_a_handle_that_is_loaded_while_production_moves_is_on_what_it_moved_to(serving, monkeypatch):
    resolve, moved = ModelRegistry.resolve, []

    def meanwhile(self, name, version="latest"):
        record = resolve(self, name, version)
        if version == "production" and not moved:
            moved.append(swap(serving, "1.1.0"))
        return record

    monkeypatch.setattr(ModelRegistry, "resolve", meanwhile)
    assert serving.load_model("toy", "production").version == "1.1.0"


def test_a_follower_that_comes_between_preparing_and_moving_is_taken_along(serving, monkeypatch):
    followed, late = live.followed, []

    def too_early(*where):
        answer = followed(*where)
        if not late:
            late.append(serving.load_model("toy", "production"))
        return answer

    monkeypatch.setattr(live, "followed", too_early)
    swap(serving, "1.1.0")
    assert late[0].version == "1.1.0"


def test_of_two_swaps_that_arrive_in_the_wrong_order_the_later_decision_counts(serving):
    handle = serving.load_model("toy", "production")
    first, second = (live.Loaded(v, serving.bundle("toy", v)) for v in ("1.1.0", "1.2.0"))
    where = (serving.store.url, "toy", "Production")
    assert live.swap(*where, 12, second) == 1
    assert live.swap(*where, 11, first) == 0
    assert handle.version == "1.2.0"


def test_a_handle_that_nobody_holds_is_forgotten(serving):
    handle = serving.load_model("toy", "production")
    gone = weakref.ref(handle)
    del handle
    gc.collect()
    assert gone() is None and not live.followed(serving.store.url, "toy", "Production")


def test_a_swap_to_what_is_there_gives_the_decision_that_put_it_there(serving):
    put = swap(serving, "1.1.0")
    assert serving.assignment("toy").production == "1.1.0"
    serving.transition("toy", "1.2.0", "Staging", verdict=APPROVE)
    assert serving.hot_swap_model("toy", "1.1.0").hash == put.hash
