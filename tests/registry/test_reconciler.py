"""Stages by hand: each thing that a person can change in MLflow is judged, recorded, and kept or put back."""

from __future__ import annotations

import contextlib
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from robustidps.errors import ConflictError, NotFoundError, RegistryUnavailableError
from robustidps.judging import promote
from robustidps.registry import reconciler, state, steps
from robustidps.registry.picture import differences, read
from robustidps.registry.reconciler import reconcile
from robustidps.registry.registry import ModelRegistry
from robustidps.testing.registry import APPROVE, MemoryTracking


def aliases(registry: ModelRegistry) -> dict[str, str]:
    return dict(registry.tracking.client.get_registered_model("toy").aliases)


def shown(registry: ModelRegistry, number: str):
    return registry.tracking.client.versions["toy", number]


def stages(registry: ModelRegistry) -> list[str]:
    return [v.current_stage for v in registry.tracking.client.versions.values()]


def settled(registry: ModelRegistry) -> None:
    """Nothing is left to answer, and nothing that was answered is answered again."""
    before = len(registry.history("toy"))
    assert reconcile(registry) == [] and len(registry.history("toy")) == before
    registry.verify()


def test_without_a_request_nothing_happens(judged):
    settled(judged)


def test_a_look_reads_only_the_evidence_that_has_come_since_the_last(judged, monkeypatch):
    judged.tracking.client.set_registered_model_alias("toy", "production", "3")
    reconcile(judged)
    read: list[int] = []
    whole = type(judged.ledger).with_evidence

    def counted(ledger, connection, entries, *more):
        read.extend(e.seq for e in entries)
        return whole(ledger, connection, entries, *more)

    monkeypatch.setattr(type(judged.ledger), "with_evidence", counted)
    reconcile(judged)
    del read[:]
    assert reconcile(judged) == [] and read == []
    judged.tracking.client.set_model_version_tag("toy", "3", "robustidps.answer", "edited")
    assert [f.outcome for f in reconcile(judged)] == ["put back"]
    fresh = ModelRegistry(settings=judged.settings, tracking=judged.tracking)
    assert judged.projection.wanted("toy") == fresh.projection.wanted("toy")  # as who reads all of it


def test_production_moved_to_a_good_version_is_kept(judged):
    judged.tracking.client.set_registered_model_alias("toy", "production", "2")
    (found,) = reconcile(judged)
    assert (found.outcome, found.version) == ("kept", "1.1.0")
    assert judged.assignment("toy").production == "1.1.0" and judged.assignment("toy").previous == "1.0.0"
    assert aliases(judged) == {"production": "2", "previous": "1"} and stages(judged) == [
        "Archived",
        "Production",
        "None",
    ]
    last = judged.history("toy")[-1]
    assert (last.action, last.verdict, last.actor_source, last.rule_set) == ("promote", "promote", "unverified", "toy")
    assert last.evidence["request"]["kind"] == "alias" and last.evidence["candidate"]["metrics"]["accuracy"] > 0.6
    assert "kept" in shown(judged, "2").tags["robustidps.answer"]
    assert judged.load_model("toy", "production").version == "1.1.0"
    settled(judged)


def test_production_moved_to_a_bad_version_is_put_back_with_the_reason(judged):
    judged.tracking.client.set_registered_model_alias("toy", "production", "3")
    (found,) = reconcile(judged)
    assert found.outcome == "put back" and "accuracy" in found.reasons[0]
    assert aliases(judged) == {"production": "1"} and judged.assignment("toy").production == "1.0.0"
    last = judged.history("toy")[-1]
    assert (last.action, last.version, last.to_stage, last.verdict) == ("refuse", "1.2.0", "Production", "reject")
    assert "put back" in shown(judged, "3").tags["robustidps.answer"]
    settled(judged)


def noted(registry: ModelRegistry, actor: str, number: str) -> None:
    """As MLflow's app notes who asks."""
    row = {"time": "2026-01-01T00:00:00+00:00", "model": "toy", "mlflow_version": number, "kind": "alias"}
    with registry.store.write() as connection:
        connection.execute(sa.insert(state.mlflow_request).values(**row, detail="production", actor=actor))


class Killed(BaseException):
    pass


def test_who_asks_for_the_same_again_and_again_is_put_back_and_recorded_once(judged, monkeypatch):
    """Neither the ledger nor what is sent from it nor the table of who asked grows; nothing new goes unrecorded."""

    def ask(number: str = "3", actor: str = "alice", alias: str = "production") -> tuple[str, int | None]:
        noted(judged, actor, number)
        judged.tracking.client.set_registered_model_alias("toy", alias, number)
        (found,) = reconcile(judged)
        assert aliases(judged).get(alias) != number and "put back" in shown(judged, number).tags["robustidps.answer"]
        return found.outcome, found.seq

    def rows() -> int:
        with judged.store.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(state.mlflow_request))

    first = ask()
    assert first[0] == "put back"
    assert [ask() for _ in range(5)] == [("put back again", first[1])] * 5
    assert judged.history("toy")[-1].seq == first[1] and rows() == 1
    assert ask(actor="bob")[0] == "put back"  # another person
    monkeypatch.setattr(reconciler, "AGAIN", timedelta(0))
    assert ask()[0] == "put back"  # later
    monkeypatch.undo()
    judged.freeze("toy", reason="incident 7")
    assert ask()[0] == "put back" and "incident 7" in judged.history("toy")[-1].reasons[0]  # for another reason
    judged.thaw("toy", reason="over")
    assert ask()[0] == "put back" and "frozen" not in shown(judged, "3").tags["robustidps.answer"]  # not frozen now
    assert ask()[0] == "put back again"
    judged.tracking.client.set_registered_model_alias("toy", "production", "2")
    assert [f.outcome for f in reconcile(judged)] == ["kept"]
    assert ask()[0] == "put back"  # beside another production
    settled(judged)


def test_a_repeat_that_is_killed_before_it_is_drawn_is_still_of_who_asked(judged, monkeypatch):
    def kill(name: str) -> None:
        if name == "project.previous":
            raise Killed

    outcomes = []
    for killed in (False, True, False):
        if not outcomes or killed:
            noted(judged, "alice", "3")
            judged.tracking.client.set_registered_model_alias("toy", "production", "3")
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(steps, "hook", kill if killed else lambda name: None)
            outcomes += [(f.outcome, f.actor) for f in reconcile(judged)]
    assert outcomes == [("put back", "alice (mlflow)"), ("put back again", "alice (mlflow)")]
    assert [d.actor for d in judged.history("toy") if d.action == "refuse"] == ["alice"]
    settled(judged)


def test_a_tag_edited_again_and_again_is_recorded_once_whatever_is_in_it(judged):
    outcomes = []
    for text in ("1.0.0", "x", "y"):
        judged.tracking.client.set_model_version_tag("toy", "3", "robustidps.version", text)
        outcomes += [f.outcome for f in reconcile(judged)]
        assert shown(judged, "3").tags["robustidps.version"] == "1.2.0"
    assert outcomes == ["put back", "put back again", "put back again"]
    settled(judged)


def test_staging_is_asked_for_by_alias_and_left_by_deleting_it(judged):
    judged.tracking.client.set_registered_model_alias("toy", "staging", "2")
    assert [f.outcome for f in reconcile(judged)] == ["kept"]
    assert judged.assignment("toy").staging == "1.1.0" and stages(judged) == ["Production", "Staging", "None"]
    judged.tracking.client.delete_registered_model_alias("toy", "staging")
    assert [f.outcome for f in reconcile(judged)] == ["kept"]
    assert judged.assignment("toy").staging is None and judged.version("toy", "1.1.0").stage == "Archived"
    settled(judged)


def test_production_is_not_left_empty(judged):
    judged.tracking.client.delete_registered_model_alias("toy", "production")
    (found,) = reconcile(judged)
    assert found.outcome == "put back" and aliases(judged) == {"production": "1"}
    assert judged.history("toy")[-1].to_stage == "Archived"
    settled(judged)


@pytest.mark.parametrize("alias", ["previous", "loihi"])
def test_aliases_that_follow_from_decisions_are_put_back(judged, alias):
    judged.tracking.client.set_registered_model_alias("toy", alias, "2")
    assert [f.outcome for f in reconcile(judged)] == ["put back"]
    assert aliases(judged) == {"production": "1"}
    settled(judged)


@pytest.mark.fault("a webhook that never comes (stages send none)", "found by looking")
def test_the_old_stage_dropdown_is_a_request_and_follows_the_truth(judged):
    client = judged.tracking.client
    client.transition_model_version_stage("toy", "2", "Production", archive_existing_versions=True)
    assert [str(f.outcome) for f in reconcile(judged)] == ["kept"]
    assert aliases(judged) == {"production": "2", "previous": "1"}
    client.transition_model_version_stage("toy", "3", "Production", archive_existing_versions=True)
    assert [(f.version, f.outcome) for f in reconcile(judged)] == [("1.2.0", "put back")]  # one request, not two
    assert stages(judged) == ["Archived", "Production", "None"]
    client.transition_model_version_stage("toy", "2", "Archived")
    assert [f.outcome for f in reconcile(judged)] == ["put back"]  # production isn't left empty this way either
    client.transition_model_version_stage("toy", "1", "None")
    assert [f.outcome for f in reconcile(judged)] == ["put back"]
    client.transition_model_version_stage("toy", "3", "Archived")
    assert [f.outcome for f in reconcile(judged)] == ["kept"]
    assert stages(judged) == ["Archived", "Production", "Archived"]
    settled(judged)


def test_the_same_wish_by_alias_and_by_dropdown_is_one(judged):
    judged.tracking.client.set_registered_model_alias("toy", "production", "3")
    judged.tracking.client.transition_model_version_stage("toy", "3", "Production", True)
    assert [f.outcome for f in reconcile(judged)] == ["put back"]
    assert stages(judged) == ["Production", "None", "None"]
    settled(judged)


def test_tags_of_ours_are_put_back_and_others_left_alone(judged):
    client = judged.tracking.client
    client.set_model_version_tag("toy", "3", "robustidps.stage", "Production")
    client.set_model_version_tag("toy", "3", "robustidps.digest", "00")
    client.set_model_version_tag("toy", "3", "note", "mine")
    client.set_registered_model_tag("toy", "robustidps.ledger", "1:00")
    assert [f.outcome for f in reconcile(judged)] == ["put back", "put back"]  # the version's, and the model's
    tags = shown(judged, "3").tags
    assert tags["robustidps.stage"] == "None" and tags["robustidps.digest"] == judged.version("toy", "1.2.0").digest
    assert tags["note"] == "mine"
    settled(judged)


def test_a_version_that_is_not_ours_is_not_taken(judged):
    judged.tracking.ensure_version("toy", "a run of somebody's", {}, "")
    judged.tracking.client.set_registered_model_alias("toy", "production", "4")
    (found,) = reconcile(judged)
    assert (
        found.outcome == "put back"
        and "isn't registered" in found.reasons[0]
        and aliases(judged) == {"production": "1"}
    )
    settled(judged)


def test_a_deleted_version_is_made_again_from_its_run(judged):
    judged.tracking.client.delete_model_version("toy", "1")  # its alias goes with it
    (found,) = reconcile(judged)
    assert (found.version, found.outcome) == ("1.0.0", "made again") and "from its run" in found.reasons[0]
    assert judged.version("toy", "1.0.0").mlflow_version == 4 and aliases(judged) == {"production": "4"}
    assert shown(judged, "4").current_stage == "Production"
    settled(judged)


def test_a_picture_counts_as_complete_only_once_all_of_it_is_drawn(judged, monkeypatch):
    judged.transition("toy", "1.1.0", "Staging", verdict=APPROVE)
    client = judged.tracking.client
    client.delete_model_version("toy", "2")
    seen: dict[str, tuple[bool, list]] = {}

    def look(name: str) -> None:
        column = state.assignment.c
        query = sa.select(column.answered).where(column.model == "toy", column.applied_generation == column.generation)
        with judged.store.read() as connection:
            complete = connection.execute(query).scalar() == judged.history("toy")[-1].seq
        seen[name] = complete, differences(judged.projection.wanted("toy"), read(client, "toy"))

    monkeypatch.setattr(steps, "hook", look)
    reconcile(judged)
    after = list(seen).index("restore.committed")
    assert [name for name, (complete, _) in list(seen.items())[after:] if complete] == ["project.applied"]
    assert seen["restore.committed"][1] and not seen["project.applied"][1]
    made = shown(judged, str(judged.version("toy", "1.1.0").mlflow_version))
    assert made.current_stage == made.tags["robustidps.stage"] == "Staging"


def test_a_deleted_version_whose_run_is_gone_is_made_again_from_the_kept_bundle_or_recorded_as_lost(judged):
    home = judged.settings.home
    for version in ("1.0.0", "1.2.0"):
        record = judged.version("toy", version)
        shutil.rmtree(home / "memory" / record.run_id)
        judged.tracking.client.delete_model_version("toy", str(record.mlflow_version))
    shutil.rmtree(judged.cache.path(judged.version("toy", "1.2.0").digest))
    found = {f.version: f for f in reconcile(judged)}
    assert found["1.0.0"].outcome == "made again" and "kept on this machine" in found["1.0.0"].reasons[0]
    assert found["1.2.0"].outcome == "lost" and judged.history("toy")[-1].verdict == "lost"
    assert judged.assignment("toy").production == "1.0.0" and "production" in aliases(judged)
    settled(judged)  # and isn't looked for every ten seconds


def test_a_strangers_version_under_a_deleted_ones_number_is_not_taken_for_it(judged):
    client = judged.tracking.client
    client.delete_model_version("toy", "3")
    judged.tracking.ensure_version("toy", "a run of somebody's", {}, "")  # has number 3 now
    assert [f.outcome for f in reconcile(judged)] == ["made again"]
    assert judged.version("toy", "1.2.0").mlflow_version == 4
    settled(judged)


def test_a_renamed_model_is_named_back_and_a_deleted_one_made_again(judged):
    client = judged.tracking.client
    client.rename_registered_model("toy", "mine")
    assert [f.outcome for f in reconcile(judged)] == ["put back"]
    assert aliases(judged) == {"production": "1"} and "mine" not in client.aliases
    settled(judged)
    client.delete_registered_model("toy")
    assert [f.outcome for f in reconcile(judged)] == ["put back", *["made again"] * 3]
    assert len(client.versions) == 3 and "production" in aliases(judged)
    settled(judged)


def test_a_judgement_without_held_out_traffic_is_a_hold_and_put_back(judged):
    path = Path(judged.version("toy", "1.1.0").held_out["path"])
    hidden = path.rename(path.with_suffix(".hidden"))
    try:
        judged.tracking.client.set_registered_model_alias("toy", "production", "2")
        (found,) = reconcile(judged)
    finally:
        hidden.rename(path)
    assert found.outcome == "put back" and "held-out traffic is gone" in found.reasons[0]
    assert judged.history("toy")[-1].verdict == "hold" and aliases(judged) == {"production": "1"}


def test_while_frozen_or_pinned_a_wish_is_put_back(judged):
    judged.freeze("toy", reason="incident 7")
    judged.tracking.client.set_registered_model_alias("toy", "production", "2")
    (found,) = reconcile(judged)
    assert found.outcome == "put back" and "incident 7" in found.reasons[0]
    settled(judged)


def test_who_asked_is_taken_from_the_servers_record_once(judged):
    noted(judged, "alice", "3")
    for expected in ("mlflow", "unverified"):  # the second was not made through the server that records
        judged.tracking.client.set_registered_model_alias("toy", "production", "3")
        reconcile(judged)
        assert judged.history("toy")[-1].actor_source == expected
    assert [d.actor for d in judged.history("toy")][-2:] == ["alice", reconciler.UNKNOWN]


@pytest.mark.fault("the watcher killed while it answers a request from MLflow", "completed, and judged once")
@pytest.mark.parametrize(
    ("number", "step"),
    [("3", "reconcile.answered"), ("3", "project.production"), ("2", "promote.committed"), ("2", "project.previous")],
)
def test_a_run_that_is_killed_is_completed_by_the_next_without_judging_again(judged, monkeypatch, number, step):
    def kill(name: str) -> None:
        if name == step:
            raise Killed

    judged.tracking.client.set_registered_model_alias("toy", "production", number)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(steps, "hook", kill)
        reconcile(judged)
    decided = len(judged.history("toy"))
    reconcile(judged)
    assert len(judged.history("toy")) == decided
    assert aliases(judged)["production"] == ("1" if number == "3" else "2")
    assert ("put back" if number == "3" else "kept") in shown(judged, number).tags["robustidps.answer"]
    settled(judged)


@pytest.mark.parametrize("step", ["restore.version", "restore.committed"])
def test_a_killed_re_creation_is_completed_by_the_next_run(judged, monkeypatch, step):
    def kill(name: str) -> None:
        if name == step:
            raise Killed

    judged.tracking.client.delete_model_version("toy", "1")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(steps, "hook", kill)
        reconcile(judged)
    reconcile(judged)
    assert len(judged.tracking.client.versions) == 3 and aliases(judged) == {"production": "4"}
    assert [d.action for d in judged.history("toy")].count("restore") == 1
    settled(judged)


def test_what_is_asked_for_while_another_wish_is_judged_is_answered_too(judged, monkeypatch):
    from robustidps import judging

    def meanwhile(*args, **options):
        judged.tracking.client.set_registered_model_alias("toy", "staging", "2")
        monkeypatch.undo()
        return judging.weigh(*args, **options)

    monkeypatch.setattr(judging, "weigh", meanwhile)
    judged.tracking.client.set_registered_model_alias("toy", "production", "3")
    assert [(f.version, f.outcome) for f in reconcile(judged)] == [("1.2.0", "put back"), ("1.1.0", "kept")]
    settled(judged)


def test_a_command_that_moves_the_model_meanwhile_is_no_persons_wish(judged, monkeypatch):
    from robustidps import judging

    def meanwhile(*args, **options):
        monkeypatch.undo()
        promote(judged, "toy", "1.1.0")
        return judging.weigh(*args, **options)

    monkeypatch.setattr(judging, "weigh", meanwhile)
    judged.tracking.client.set_registered_model_alias("toy", "production", "3")
    reconcile(judged)
    assert judged.assignment("toy").production == "1.1.0" and aliases(judged) == {"production": "2", "previous": "1"}
    assert {d.version for d in judged.history("toy") if d.action == "refuse"} == {"1.2.0"}
    settled(judged)


def test_mlflow_away_is_an_error_and_nothing_is_recorded(judged):
    before = len(judged.history("toy"))
    assert isinstance(judged.tracking, MemoryTracking)
    judged.tracking.away = True
    with pytest.raises(RegistryUnavailableError):
        reconcile(judged)
    assert len(judged.history("toy")) == before


def test_a_picture_that_is_behind_is_completed_before_anything_is_judged(judged):
    judged.transition("toy", "1.1.0", "Production", verdict=APPROVE, project=False)
    assert [f.outcome for f in reconcile(judged)] == ["completed"]
    assert aliases(judged) == {"production": "2", "previous": "1"}
    settled(judged)


def test_an_unknown_model_is_named(judged):
    with pytest.raises(NotFoundError):
        reconcile(judged, "nobody")
    with pytest.raises(ConflictError):
        judged.thaw("toy", reason="never frozen")
