"""Updates from the offer to the record, against a repository in memory; judged on real rows."""

from __future__ import annotations

import asyncio
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustidps import judging
from robustidps.bundle import open_bundle
from robustidps.errors import (
    ConfigError,
    ConflictError,
    ModelValidationError,
    StorageError,
    UpdateError,
)
from robustidps.registry import steps
from robustidps.registry.metadata import ModelMetadata
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings, use_settings
from robustidps.testing.registry import APPROVE, MemoryTracking
from robustidps.testing.remote import MemoryRemote
from robustidps.testing.traffic import toy_traffic
from robustidps.traffic.schema import TrafficSchema
from robustidps.updates import installing, working
from robustidps.updates.offers import Update, check, survey
from tests.updates.site import RULES


@pytest.fixture
def remote(site, bundles):
    """A repository that offers 1.1.0, and this installation's view of it."""
    memory = MemoryRemote.offering(bundles["1.1.0"])
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


def killed(site, seen, monkeypatch, at: str) -> None:
    """A round killed at a step: it cleans up nothing, neither its working folder nor a reservation."""
    with monkeypatch.context() as patch:
        patch.setattr(installing.shutil, "rmtree", lambda *a, **k: None)
        patch.setattr(working, "_undo_leftovers", lambda *a: None)
        patch.setattr(steps, "hook", lambda name: (_ for _ in ()).throw(Killed(name)) if name == at else None)
        with pytest.raises(Killed):
            installing.run(site, seen)


@pytest.mark.fault("an update cut off after each of its steps", "finished or undone by the next run")
@pytest.mark.parametrize(
    "at",
    [
        "register.reserved",
        "update.staged",
        *(
            pytest.param(at, marks=pytest.mark.long)
            for at in ("update.noted", "register.uploaded", "update.registered")
        ),
    ],
)
def test_a_run_that_was_killed_is_finished_or_undone_by_the_next(site, remote, monkeypatch, at):
    _, seen = remote
    killed(site, seen, monkeypatch, at)
    assert site.assignment("toy").production == "1.0.0"
    [outcome] = installing.run(site, seen)
    assert outcome.outcome == "activated", outcome
    assert site.assignment("toy").production == "1.1.0"
    assert site.verify("toy").ok
    assert [d.version for d in site.history("toy") if d.action == "register"] == ["1.0.0", "1.1.0"]


def test_repair_undoes_what_a_killed_update_had_begun_to_register(site, remote, monkeypatch):
    _, seen = remote
    killed(site, seen, monkeypatch, "register.uploaded")
    assert site.version("toy", "1.1.0").status == "reserved"
    assert [line for line in site.repair() if "killed" in line] == [
        "toy: what an update that was killed had left is undone"
    ]
    assert [r.version for r in site.versions("toy")] == ["1.0.0"]
    assert not list(site.settings.folder("updates", "work").iterdir())
    assert installing.run(site, seen)[0].outcome == "activated"
    [registered] = [d for d in site.history("toy") if (d.action, d.version) == ("register", "1.1.0")]
    assert registered.evidence["provenance"]["target"] == "linear/toy/1.1.0/bundle.tar"
    assert site.repair() == []


def test_a_round_that_is_interrupted_gives_back_what_it_had_begun_to_register(site, remote, monkeypatch):
    _, seen = remote
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(steps, "hook", lambda name: _interrupt() if name == "register.uploaded" else None)
        installing.run(site, seen)
    assert [r.version for r in site.versions("toy")] == ["1.0.0"] and site.repair() == []
    assert installing.run(site, seen)[0].outcome == "activated"


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_repair_leaves_a_registration_to_the_update_that_is_at_it(site, remote, monkeypatch):
    _, seen = remote
    said = []

    def meanwhile(at):
        if at == "register.cached":  # in a thread as in a process of its own: it has neither of the update's locks
            with ThreadPoolExecutor() as other:
                said.append(other.submit(site.repair).result(timeout=100))

    with monkeypatch.context() as patch:
        patch.setattr(steps, "hook", meanwhile)
        assert installing.run(site, seen)[0].outcome == "activated"
    assert said == [[]]
    [registered] = [d for d in site.history("toy") if (d.action, d.version) == ("register", "1.1.0")]
    assert "provenance" in registered.evidence


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


# --- whose fault it is


def refusals(registry):
    return [(d.action, d.version, d.verdict) for d in registry.history("toy") if d.action in ("turn_away", "refuse")]


def test_a_mirror_that_sends_something_else_cannot_have_a_good_version_refused_for_good(site, remote):
    memory, seen = remote
    place = next(path for path in memory.files if path.endswith("bundle.tar"))
    length = len(memory.files[place])
    for rubbish in (b"a", b"b"):
        seen.fetcher.answers[place] = rubbish * length
        [outcome] = installing.run(site, seen)
        assert outcome.outcome == "refused", outcome
    assert refusals(site) == [("turn_away", "1.1.0", "hold")]  # once, whatever it sends
    seen.fetcher.answers.clear()
    assert installing.run(site, seen)[0].outcome == "activated"


def test_a_reference_profile_that_is_none_is_refused_once_and_for_good(site, bundles, tmp_path):
    from robustidps.testing.forge import reseal

    shutil.copytree(bundles["1.1.0"].path, tmp_path / "b")
    (tmp_path / "b" / "reference.json").write_text('{"rows": "many"}')
    reseal(tmp_path / "b")
    metadata = ModelMetadata.from_json((tmp_path / "b" / "metadata.json").read_bytes(), where="b")
    memory = MemoryRemote.offering(SimpleNamespace(path=tmp_path / "b", metadata=metadata))
    seen = memory.registry(site.settings.home)
    [outcome] = installing.run(site, seen)
    assert outcome.outcome == "refused" and "reference.json" in outcome.reasons[0]
    assert installing.run(site, seen)[0].outcome == "none"
    assert refusals(site) == [("turn_away", "1.1.0", "reject")]
    assert "reference.json" in site.history("toy")[-1].reasons[0]


def test_traffic_of_ours_that_was_damaged_is_not_held_against_the_version(site, remote):
    file = site.settings.folder("traffic") / "held-out.parquet"
    good = file.read_bytes()
    toy_traffic(900, seed=10).write(file)
    [outcome] = installing.run(site, remote[1])
    assert outcome.outcome == "failed" and "held-out traffic was changed" in outcome.reasons[0]
    assert refusals(site) == [("turn_away", "1.1.0", "hold")]
    file.unlink()
    assert installing.run(site, remote[1])[0].outcome == "failed"
    file.write_bytes(good)
    assert installing.run(site, remote[1])[0].outcome == "activated"


@pytest.mark.long
def test_another_schema_is_refused_on_record_and_every_other_model_has_its_turn(site, remote, tmp_path, bundles):
    from robustidps.testing.forge import reseal

    memory, seen = remote
    folder = tmp_path / "other"
    shutil.copytree(bundles["1.2.0"].path, folder)
    schema = json.loads((folder / "schema.json").read_text())
    schema["features"][0]["unit"] = "parsecs"
    (folder / "schema.json").write_text(json.dumps(schema))
    digest = TrafficSchema.model_validate(schema).digest
    profile = json.loads((folder / "reference.json").read_text()) | {"schema_digest": digest}
    (folder / "reference.json").write_text(json.dumps(profile))
    reseal(folder, schema_digest=digest)
    memory.add(open_bundle(folder))
    memory.publish()
    site.register_model("away", "1.0.0", bundles["away"].path, held_out={"path": "/gone", "digest": "0" * 64})
    site.transition("away", "1.0.0", "Production", verdict=APPROVE)
    memory.add(bundles["away 1.1.0"])
    memory.publish()
    first = {o.name: o for o in installing.run(site, seen)}
    assert first["away"].outcome == "failed" and "gone" in first["away"].reasons[0]
    assert first["toy"].outcome == "refused" and "differs from champion" in first["toy"].reasons[0], first
    assert refusals(site) == [("turn_away", "1.2.0", "reject")]
    assert {o.name: o.outcome for o in installing.run(site, seen)} == {"away": "failed", "toy": "activated"}


def test_a_version_that_can_only_be_held_does_not_stand_before_an_older_one(site, remote, bundles, monkeypatch):
    memory, seen = remote
    memory.add(bundles["1.2.0"])
    memory.publish()
    real = installing._require_installed

    def require(requirements, update):
        if update.new_version == "1.2.0":
            raise ModelValidationError("requires what isn't installed: wonderlib")
        real(requirements, update)

    monkeypatch.setattr(installing, "_require_installed", require)
    assert [installing.run(site, seen)[0].outcome for _ in range(3)] == ["refused", "activated", "refused"]
    assert site.assignment("toy").production == "1.1.0"
    assert refusals(site) == [("turn_away", "1.2.0", "hold")]


@pytest.mark.long
def test_a_hold_whose_figures_alone_differ_is_on_record_once(site, remote, monkeypatch):
    counts = iter([17, 1_204, 3])

    def short(requirements, update):
        raise ModelValidationError(f"{next(counts):,} recent flows are too few")

    monkeypatch.setattr(installing, "_require_installed", short)
    for _ in range(3):
        installing.run(site, remote[1])
    assert refusals(site) == [("turn_away", "1.1.0", "hold")]


# --- numbers, and what others do meanwhile


def test_a_number_that_a_training_takes_meanwhile_stays_the_trainings(site, remote, monkeypatch):
    _, seen = remote
    with monkeypatch.context() as patch:
        patch.setattr(steps, "hook", lambda at: at == "update.noted" and site.reserve_version("toy", "1.1.0"))
        [outcome] = installing.run(site, seen)
    assert outcome.outcome == "held" and "exists already" in outcome.reasons[0]
    assert site.version("toy", "1.1.0").status == "reserved" and site.version("toy", "1.1.0").digest is None
    assert installing.run(site, seen)[0].outcome == "none"
    assert "by a training" in str(survey(site, seen)[0].why_not)


def test_what_a_killed_run_noted_does_not_give_back_a_trainings_number(site, remote, monkeypatch):
    _, seen = remote
    killed(site, seen, monkeypatch, "update.noted")
    site.reserve_version("toy", "1.1.0")
    installing.run(site, seen)
    assert site.version("toy", "1.1.0").status == "reserved"


def test_what_lies_in_the_working_folder_and_is_not_ours_is_left_alone(site, remote, tmp_path):
    work = site.settings.folder("updates", "work")
    (work / "README.txt").write_text("mine")
    (work / ".cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (work / "link").symlink_to(tmp_path / "elsewhere")
    assert installing.run(site, remote[1])[0].outcome == "activated"
    assert sorted(p.name for p in work.iterdir()) == [".cache", "README.txt", "link"]
    with pytest.raises(StorageError, match="in the way"), installing.working_on(site, "link"):
        pass


def test_another_bundle_put_in_place_of_the_one_that_was_measured_is_not_registered(
    site, remote, bundles, monkeypatch, tmp_path
):
    from robustidps.testing.forge import reseal

    real = installing.validate

    def swapped(registry, update, admitted, **options):
        judged = real(registry, update, admitted, **options)
        shutil.rmtree(admitted["path"])
        shutil.copytree(bundles["1.2.0"].path, admitted["path"])
        reseal(Path(admitted["path"]), version="1.1.0")
        return judged

    monkeypatch.setattr(installing, "validate", swapped)
    [outcome] = installing.run(site, remote[1])
    assert outcome.outcome == "refused" and "is another bundle" in outcome.reasons[0]
    assert [r.version for r in site.versions("toy")] == ["1.0.0"]
    assert site.assignment("toy").staging is None


@pytest.mark.parametrize(
    "decision", ["rollback", *(pytest.param(d, marks=pytest.mark.long) for d in ("archive", "withdraw"))]
)
def test_what_a_person_decides_between_check_and_update_stands(site, remote, decision):
    _, seen = remote
    [update] = check(site, seen)
    installing.install(site, seen, "toy", "1.1.0", auto_activate=decision == "rollback")
    if decision == "rollback":
        site.rollback("toy", reason="too many alerts")
    elif decision == "archive":
        site.transition("toy", "1.1.0", "Archived", reason="not now")
    else:
        site.withdraw("toy", "1.1.0", reason="never")
    before = actions(site)
    outcomes, _ = installing.each(site, ["toy"], [update], lambda u: installing.take(site, seen, u, auto_activate=True))
    assert outcomes[0].outcome == "held" and "meanwhile" in outcomes[0].reasons[0]
    assert actions(site) == before
    assert site.assignment("toy").production == "1.0.0"


@pytest.mark.long
def test_one_that_waits_and_is_archived_by_a_person_meanwhile_stays_archived(site, remote, monkeypatch):
    _, seen = remote
    installing.install(site, seen, "toy", "1.1.0")
    [update] = check(site, seen)
    assert update.waiting
    site.transition("toy", "1.1.0", "Archived", reason="not now")
    with pytest.raises(ConflictError, match="archived"):
        installing.take(site, seen, update, auto_activate=True)
    assert site.assignment("toy").production == "1.0.0"


def test_a_version_that_somebody_else_has_put_into_staging_is_not_pushed_out(site, remote, bundles):
    site.register_model("toy", "1.0.5", bundles["1.0.5"].path)
    site.transition("toy", "1.0.5", "Staging", verdict=APPROVE, actor="jane", actor_source="os")
    [outcome] = installing.run(site, remote[1])
    assert outcome.outcome == "held" and "1.0.5 waits in Staging, where jane has put it" in outcome.reasons[0]
    assert site.assignment("toy").staging == "1.0.5"
    installing.install(site, remote[1], "toy", "1.1.0")  # a person may
    assert site.assignment("toy").staging == "1.1.0"


def test_what_a_person_asks_for_by_name_is_on_record_as_theirs(site, remote):
    installing.install(site, remote[1], "toy", "1.1.0", auto_activate=True)
    moved = [d for d in site.history("toy") if d.version == "1.1.0" and d.action == "promote"]
    assert [d.to_stage for d in moved] == ["Staging", "Production"]
    assert not [d for d in moved if d.actor_source == "auto-update"]
    assert all(rule["passed"] for d in moved for rule in d.evidence["rules"])


def test_one_that_could_not_be_activated_is_archived_and_tried_again(site, remote, monkeypatch):
    _, seen = remote
    real = ModelRegistry.transition

    def full(self, name, version, stage, **options):
        if stage == "Production":
            raise StorageError("the disk is full")
        return real(self, name, version, stage, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "transition", full)
        assert installing.run(site, seen)[0].outcome == "failed"
    assert site.version("toy", "1.1.0").stage == "Archived"
    assert installing.run(site, seen)[0].outcome == "activated"


def test_a_refusal_for_hardware_says_nothing_about_production(site, remote):
    _, seen = remote
    installing.install(site, seen, "toy", "1.1.0")
    site.take_alias("toy", "1.1.0", "loihi", verdict={"outcome": "reject", "reasons": ["too large"]}, evidence={})
    assert installing.run(site, seen)[0].outcome == "activated"


# --- families, and tiers


def test_only_the_family_of_what_is_in_production_speaks_for_a_model(site, bundles, tmp_path):
    from robustidps.testing.forge import reseal

    shutil.copytree(bundles["1.1.0"].path, tmp_path / "b")
    reseal(tmp_path / "b", family="another")
    memory = MemoryRemote.offering(open_bundle(tmp_path / "b"))
    seen = memory.registry(site.settings.home)
    assert survey(site, seen) == []
    # ... whatever else was registered under the name meanwhile
    shutil.copytree(bundles["1.0.5"].path, tmp_path / "c")
    reseal(tmp_path / "c", family="another")
    site.register_model("toy", "1.0.5", tmp_path / "c")
    assert survey(site, seen) == []


def test_a_model_of_no_family_is_not_any_familys(tmp_path, bundles):
    from robustidps.testing.forge import reseal

    settings = Settings(home=tmp_path / "own", enable_auto_update=True)
    own = ModelRegistry(settings=settings, tracking=MemoryTracking(settings))
    shutil.copytree(bundles["1.0.0"].path, tmp_path / "b")
    reseal(tmp_path / "b", family="")
    own.register_model("toy", "1.0.0", tmp_path / "b")
    memory = MemoryRemote.offering(bundles["1.1.0"])
    assert survey(own, memory.registry(own.settings.home)) == []


def test_a_model_that_several_families_offer_is_nobodys_until_one_is_here(tmp_path, bundles):
    from robustidps.testing.forge import reseal

    shutil.copytree(bundles["1.1.0"].path, tmp_path / "b")
    reseal(tmp_path / "b", family="another")
    memory = MemoryRemote.offering(bundles["1.1.0"], open_bundle(tmp_path / "b"))
    settings = Settings(home=tmp_path / "new", enable_auto_update=True)
    new = ModelRegistry(settings=settings, tracking=MemoryTracking(settings))
    seen = memory.registry(new.settings.home)
    assert check(new, seen, ["toy"]) == []
    with pytest.raises(ConflictError, match=r"several families.*another, linear"):
        installing.install(new, seen, "toy", "1.1.0")


LAX = (
    RULES.replace("stages: [Production]}\nrules", "stages: []}\nrules")
    .replace("  - {kind: gain, metric: accuracy, relative: true, margin: 0.02, stages: [Production]}\n", "")
    .replace("left_out:", "left_out:\n  gain: nobody asks\n  disjoint_in_time: nobody asks")
)


@pytest.mark.parametrize("approval", [False, pytest.param(True, marks=pytest.mark.long)])
def test_where_nothing_can_be_measured_no_rule_set_activates(tmp_path, bundles, remote, approval):
    home = tmp_path / "bare"
    (home / "configs" / "promotion").mkdir(parents=True)
    ask = LAX.replace("rules:\n", "rules:\n  - {kind: approval}\n") if approval else LAX
    (home / "configs" / "promotion" / "lax.yaml").write_text(ask)
    settings = Settings(home=home, enable_auto_update=True, updates_without_labels="activate")
    bare = ModelRegistry(settings=settings, tracking=MemoryTracking(settings))
    bare.register_model("toy", "1.0.0", bundles["1.0.0"].path)
    bare.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    seen = remote[0].registry(bare.settings.home)
    with use_settings(bare.settings):
        [outcome] = installing.run(bare, seen, rules="lax")
        assert outcome.outcome == "staged" and "no traffic to measure it on" in outcome.reasons[0]
        if approval:  # an approval is of figures, of which there are none
            [said] = judging.promote(bare, "toy", "1.1.0", rules="lax")
            assert not said.moved and said.approval is None
