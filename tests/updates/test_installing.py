"""Updates from the offer to the record, against a repository in memory; judged on real rows."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from robustidps.bundle import open_bundle
from robustidps.errors import ConfigError, ConflictError, ModelValidationError, UpdateError
from robustidps.registry import steps
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, use_settings
from robustidps.testing.judged import DAY
from robustidps.testing.registry import APPROVE, MemoryTracking
from robustidps.testing.remote import MemoryRemote
from robustidps.testing.traffic import toy_traffic
from robustidps.updates import installing
from robustidps.updates.offers import Update, check, survey

RULES = """
name: toy_update
evidence: {min_rows: 100, min_blocks: 5, stages: [Production]}
rules:
  - {kind: gain, metric: accuracy, relative: true, margin: 0.02, stages: [Production]}
  - {kind: schema_compatible}
  - {kind: same_major}
  - {kind: rollback_available, stages: [Production]}
left_out:
  threshold: the toy model is linear, and this is not about it
  recall_floor: the toy model is linear, and this is not about it
  false_positive_ceiling: the toy model is linear, and this is not about it
  latency: not what these models are about
  stability: not what these models are about
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """By version: 1.0.0 never learnt, 1.1.0 did, 1.2.0 never did."""
    from robustidps.testing.linear import Linear, LinearSettings
    from robustidps.training import train_bundle

    folder = tmp_path_factory.mktemp("bundles")
    train, validation = toy_traffic(900, seed=3), toy_traffic(400, seed=4)
    validation = replace(validation, time=validation.time + DAY)
    made = {}
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        learns = version == "1.1.0"
        settings = LinearSettings(seed=0, epochs=150 if learns else 1, learning_rate=0.5 if learns else 1e-6)
        train_bundle(Linear(), settings, train, validation, name="toy", version=version, out=folder / version)
        made[version] = open_bundle(folder / version)
    return made


@pytest.fixture
def site(tmp_path, bundles):
    """An installation with 1.0.0 in production, held-out traffic of its own, and automatic updates on."""
    home = tmp_path / "home"
    (home / "configs" / "promotion").mkdir(parents=True)
    (home / "configs" / "promotion" / "toy_update.yaml").write_text(RULES)
    settings = Settings(home=home, enable_auto_update=True, updates_rules={"toy": "toy_update"})
    registry = ModelRegistry(settings=settings, tracking=MemoryTracking(settings))
    traffic = toy_traffic(900, seed=9)
    held_out = replace(traffic, time=traffic.time + 5 * DAY)
    path = held_out.write(settings.folder("traffic") / "held-out.parquet")
    facts = {"path": str(path), "digest": held_out.digest, "dataset": "toy", "rules": "toy_update"}
    registry.register_model("toy", "1.0.0", bundles["1.0.0"].path, held_out=facts)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    with use_settings(settings):
        yield registry


@pytest.fixture
def remote(site, bundles):
    """A repository that offers 1.1.0, and this installation's view of it."""
    memory = MemoryRemote()
    memory.add(bundles["1.1.0"])
    memory.publish()
    return memory, memory.registry(site.settings.home)


def actions(registry):
    return [(d.action, d.version, d.to_stage, d.verdict) for d in registry.history("toy")]


def test_checking_says_what_is_newer_and_downloads_no_model(site, remote, bundles):
    _, seen = remote
    [update] = check(site, seen)
    assert update["name"] == "toy"
    assert (update["current_version"], update["new_version"]) == ("1.0.0", "1.1.0")
    stated = {v: b.metadata.performance_metrics["val_accuracy"] for v, b in bundles.items()}
    gain = 100 * (round(stated["1.1.0"], 4) - stated["1.0.0"]) / stated["1.0.0"]
    assert update["performance_metrics"]["accuracy_gain"] == pytest.approx(gain, abs=0.02)
    assert str(update) == f"toy: 1.0.0 -> 1.1.0, accuracy {update['performance_metrics']['accuracy_gain']:+.1f} %"
    assert not [path for path in seen.fetcher.asked if "bundle.tar" in path]
    assert dict(Update.of(json.loads(json.dumps(update.as_dict())))) == dict(update)


def test_a_better_version_is_measured_here_staged_and_put_into_production_with_its_provenance(site, remote, bundles):
    _, seen = remote
    [outcome] = installing.run(site, seen)
    assert (outcome.outcome, outcome.version) == ("activated", "1.1.0"), outcome
    assert outcome.measured and outcome.measured.startswith("+")
    assert site.assignment("toy").production == "1.1.0"
    assert site.assignment("toy").previous == "1.0.0"
    registered, staged, moved = site.history("toy")[-3:]
    assert registered.actor_source == "publisher-key"
    provenance = registered.evidence["provenance"]
    assert provenance["target"] == "linear/toy/1.1.0/bundle.tar"
    assert provenance["stated"]["accuracy"] == pytest.approx(
        bundles["1.1.0"].metadata.performance_metrics["val_accuracy"], abs=1e-4
    )
    assert (staged.to_stage, moved.to_stage) == ("Staging", "Production")
    assert moved.evidence["update"]["measured"] == outcome.measured
    assert moved.evidence["update"]["tier"] == "labelled"
    assert moved.rule_set == "toy_update"
    assert site.verify("toy").ok
    assert check(site, seen) == []
    assert not list(site.settings.folder("updates", "work").iterdir())


def test_a_version_that_is_worse_here_is_turned_away_once_and_not_offered_again(site, bundles):
    memory = MemoryRemote()
    memory.add(bundles["1.2.0"], metrics={"accuracy": "0.99"})  # whatever its publisher says
    memory.publish()
    seen = memory.registry(site.settings.home)
    [outcome] = installing.run(site, seen)
    assert outcome.outcome == "refused"
    assert "gain accuracy" in outcome.reasons[0] and "below 0.02" in outcome.reasons[0]
    last = site.history("toy")[-1]
    assert (last.action, last.version, last.verdict) == ("turn_away", "1.2.0", "reject")
    assert last.bundle_digest == bundles["1.2.0"].digest
    before = actions(site)
    assert installing.run(site, seen)[0].outcome == "none"
    assert actions(site) == before
    [left] = survey(site, seen)
    assert "was refused on" in str(left.why_not)
    with pytest.raises(ModelValidationError, match="gain accuracy"):  # a person may ask for it; the rules say the same
        installing.install(site, seen, "toy", "1.2.0")
    assert site.assignment("toy").production == "1.0.0"
    assert site.verify("toy").ok


def test_what_was_rolled_back_by_a_person_is_not_put_back(site, remote):
    _, seen = remote
    installing.run(site, seen)
    site.rollback("toy", reason="too many alerts")
    assert installing.run(site, seen)[0].outcome == "none"
    assert site.assignment("toy").production == "1.0.0"
    assert "was rolled back" in str(survey(site, seen)[0].why_not)


def test_nothing_of_a_frozen_model_is_taken(site, remote):
    site.freeze("toy", reason="incident 7")
    [outcome] = installing.run(site, remote[1])
    assert outcome.outcome == "held" and "incident 7" in outcome.reasons[0]
    assert site.assignment("toy").staging is None


def test_with_automatic_updates_off_it_only_says_what_there_is(site, remote):
    site.settings = site.settings.model_copy(update={"enable_auto_update": False})
    [outcome] = installing.run(site, remote[1])
    assert outcome.outcome == "available"
    assert actions(site)[-1][0] == "promote" and site.assignment("toy").staging is None
    with pytest.raises(ConfigError, match="off"):
        asyncio.run(site.auto_update_loop(rounds=1))


def test_without_any_traffic_of_ones_own_it_waits_in_staging_and_the_schedule_adds_nothing(tmp_path, bundles, remote):
    settings = Settings(home=tmp_path / "bare", enable_auto_update=True)
    bare = ModelRegistry(settings=settings, tracking=MemoryTracking(settings))
    bare.register_model("toy", "1.0.0", bundles["1.0.0"].path)
    bare.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    seen = remote[0].registry(bare.settings.home)
    with use_settings(bare.settings):
        [outcome] = installing.run(bare, seen)
        assert outcome.outcome == "staged", outcome
        assert bare.assignment("toy").staging == "1.1.0"
        assert bare.assignment("toy").production == "1.0.0"
        before = actions(bare)
        assert installing.run(bare, seen)[0].outcome == "staged"
        assert actions(bare) == before


def test_requirements_that_are_not_met_refuse_with_the_command_and_it_is_offered_again(site, remote, monkeypatch):
    from robustidps.updates import evidence

    _, seen = remote
    lacking = ["wonderlib>=2 is not installed: pip install 'wonderlib>=2'"]
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "unmet", lambda requirements: lacking)
        [outcome] = installing.run(site, seen)
        assert outcome.outcome == "refused" and "pip install" in outcome.reasons[0]
        assert not [path for path in seen.fetcher.asked if "bundle.tar" in path]
        installing.run(site, seen)
    turned = [d for d in site.history("toy") if d.action == "turn_away"]
    assert [(d.version, d.verdict) for d in turned] == [("1.1.0", "hold")]
    assert installing.run(site, seen)[0].outcome == "activated"


def test_a_registry_that_has_expired_is_on_record_once_and_changes_nothing(site, remote):
    memory, seen = remote
    memory.signed("timestamp").expires -= timedelta(days=30)
    memory.signed("timestamp").version += 1
    memory.store("timestamp")
    for _ in range(2):
        with pytest.raises(UpdateError, match="expired"):
            installing.run(site, seen)
    told = [d for d in site.history("toy") if d.action == "turn_away"]
    assert len(told) == 1 and told[0].version is None and "expired" in told[0].reasons[0]
    assert site.verify("toy").ok


def test_a_second_update_of_the_same_model_is_told_so(site, remote):
    _, seen = remote
    with installing.working_on(site, "toy"):
        [outcome] = installing.run(site, seen)
    assert outcome.outcome == "held" and "another process" in outcome.reasons[0]
    assert installing.run(site, seen)[0].outcome == "activated"


class Killed(BaseException):
    """Ends a run at a step; what it leaves on the disk is left as it is."""


@pytest.mark.fault("an update cut off after each of its steps", "finished or undone by the next run")
@pytest.mark.parametrize(
    "at", ["update.noted", "register.reserved", "register.uploaded", "update.registered", "update.staged"]
)
def test_a_run_that_was_killed_is_finished_or_undone_by_the_next(site, remote, monkeypatch, at):
    _, seen = remote
    # A killed process cleans up nothing: neither its working folder nor a reservation.
    with monkeypatch.context() as patch:
        patch.setattr(installing.shutil, "rmtree", lambda *a, **k: None)
        patch.setattr(steps, "hook", lambda name: (_ for _ in ()).throw(Killed(name)) if name == at else None)
        with pytest.raises(Killed):
            installing.run(site, seen)
    assert site.assignment("toy").production == "1.0.0"
    [outcome] = installing.run(site, seen)
    assert outcome.outcome == "activated", outcome
    assert site.assignment("toy").production == "1.1.0"
    assert site.verify("toy").ok
    assert [d.version for d in site.history("toy") if d.action == "register"] == ["1.0.0", "1.1.0"]


def test_a_model_moved_by_somebody_else_meanwhile_stays_as_they_left_it(site, remote, bundles, monkeypatch):
    _, seen = remote
    real = installing.validate

    def slow(*args, **kwargs):
        found = real(*args, **kwargs)
        site.transition("toy", "1.0.0", "Archived", reason="by hand, in between")
        return found

    monkeypatch.setattr(installing, "validate", slow)
    [outcome] = installing.run(site, seen)
    assert outcome.outcome == "held"
    assert site.assignment("toy").production is None


def test_the_guides_calls_go_through_the_same_steps(site, remote, monkeypatch):
    _, seen = remote
    monkeypatch.setattr(installing, "open_remote", lambda settings: seen)

    async def guide():
        updates = await site.check_for_updates()
        assert updates[0]["performance_metrics"]["accuracy_gain"] > 0
        assert await site.download_and_install_update(name="toy", version="1.1.0", auto_activate=True)

    asyncio.run(guide())
    assert site.assignment("toy").production == "1.1.0"


def test_the_loop_goes_on_after_a_round_that_failed(site, remote, monkeypatch):
    _, seen = remote
    monkeypatch.setattr(installing, "open_remote", lambda settings: seen)
    rounds, outcomes = iter([ConflictError("away"), None]), []
    real = installing.run

    def sometimes(*args, **kwargs):
        if error := next(rounds):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(installing, "run", sometimes)
    asyncio.run(site.auto_update_loop(interval_hours=1e-6, rounds=2, after=outcomes.extend))
    assert [o.outcome for o in outcomes] == ["activated"]
