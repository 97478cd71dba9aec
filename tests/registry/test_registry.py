"""What the registry promises about versions, stages and loading; MLflow's part is in memory here."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from robustidps.errors import (
    BundleError,
    ConflictError,
    InputError,
    ModelValidationError,
    NameInvalidError,
    NotFoundError,
    RefusedError,
    RegistryUnavailableError,
    VersionExistsError,
)
from robustidps.registry.registry import ModelRegistry
from robustidps.testing.registry import APPROVE, REFUSE
from robustidps.testing.traffic import toy_traffic


def promote(registry: ModelRegistry, *versions: str, stage: str = "Production") -> None:
    for version in versions:
        registry.transition("toy", version, stage, verdict=APPROVE, rule_set="default")


def edit(folder: Path) -> None:
    file = folder / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_a_version_goes_from_none_to_staging_to_production_to_archived(stocked):
    stages = [stocked.version("toy", "1.0.0").stage]
    for stage in ("Staging", "Production", "Archived"):
        promote(stocked, "1.0.0", stage=stage)
        stages.append(stocked.version("toy", "1.0.0").stage)
    assert stages == ["None", "Staging", "Production", "Archived"]


def test_versions_are_sorted_as_numbers_not_as_text(stocked):
    assert [v.version for v in stocked.versions("toy")] == ["1.0.0", "1.1.0", "1.2.0", "1.10.0"]
    assert stocked.models()[0].newest == "1.10.0"
    assert stocked.reserve_version("toy") == "1.11.0"
    assert stocked.reserve_version("toy", breaking=True) == "2.0.0"


def test_a_reserved_number_is_taken_until_it_is_released(registry):
    assert registry.reserve_version("toy") == "1.0.0"
    with pytest.raises(VersionExistsError, match=r"toy 1\.0\.0.*1\.1\.0"):
        registry.reserve_version("toy", "1.0.0")
    assert registry.release_reservation("toy", "1.0.0")
    assert not registry.release_reservation("toy", "1.0.0")
    assert registry.reserve_version("toy") == "1.0.0"


def test_a_registered_version_can_neither_be_registered_again_nor_released(stocked, bundles):
    with pytest.raises(VersionExistsError, match="this very content"):
        stocked.register_model("toy", "1.0.0", bundles["1.0.0"])
    with pytest.raises(VersionExistsError):
        stocked.reserve_version("toy", "1.0.0")
    assert not stocked.release_reservation("toy", "1.0.0")
    assert stocked.version("toy", "1.0.0").status == "registered"


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0+build", "../1.0.0", "1.0.0\n", ""])
def test_a_version_that_is_not_semantic_is_refused(registry, version):
    with pytest.raises(NameInvalidError):
        registry.reserve_version("toy", version)
    assert registry.models() == []


@pytest.mark.parametrize("name", ["../toy", "Toy", "toy\x1b[31m", "<b>toy</b>", "", "a" * 64, "toy'; --"])
def test_a_name_that_climbs_out_or_carries_markup_is_refused(registry, bundles, name):
    for call in (registry.reserve_version, registry.versions, registry.history, registry.assignment):
        with pytest.raises(NameInvalidError) as caught:
            call(name)
        assert "\x1b" not in str(caught.value)
    with pytest.raises(NameInvalidError):
        registry.register_model(name, "1.0.0", bundles["1.0.0"])


def test_a_bundle_of_another_version_and_weights_without_metadata_are_refused(registry, bundles, tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    with pytest.raises(InputError, match="so it needs metadata"):
        registry.register_model("toy", "1.0.0", weights)
    with pytest.raises(InputError, match=r"is toy 1\.1\.0, not toy 1\.0\.0"):
        registry.register_model("toy", "1.0.0", bundles["1.1.0"])
    assert registry.models() == []


def test_metadata_given_beside_the_bundle_has_to_agree_and_gets_its_checksum(registry, bundles):
    from robustidps.registry.metadata import ModelMetadata

    own = ModelMetadata.from_json((bundles["1.0.0"] / "metadata.json").read_bytes())
    with pytest.raises(InputError, match="differs from the bundle's in author"):
        registry.register_model("toy", "1.0.0", bundles["1.0.0"], own.model_copy(update={"author": "somebody"}))
    record = registry.register_model("toy", "1.0.0", bundles["1.0.0"], own.model_copy(update={"checksum": ""}))
    assert record.digest == own.checksum


def test_an_edited_bundle_is_not_registered(registry, bundles, tmp_path):
    import shutil

    shutil.copytree(bundles["1.0.0"], tmp_path / "edited")
    edit(tmp_path / "edited")
    with pytest.raises(BundleError):
        registry.register_model("toy", "1.0.0", tmp_path / "edited")
    assert registry.models() == []


def test_nothing_is_entered_while_mlflow_does_not_answer(registry, bundles):
    registry.tracking.away = True
    with pytest.raises(RegistryUnavailableError):
        registry.register_model("toy", "1.0.0", bundles["1.0.0"])
    assert registry.models() == []
    registry.tracking.away = False
    assert registry.register_model("toy", "1.0.0", bundles["1.0.0"]).status == "registered"


def test_a_move_stands_while_mlflow_is_away_and_the_next_command_completes_the_picture(stocked, caplog):
    stocked.tracking.away = True
    promote(stocked, "1.0.0")
    assert "the move stands" in caplog.text
    assert stocked.assignment("toy").production == "1.0.0" and not stocked.assignment("toy").projected
    stocked.tracking.away = False
    assert stocked.ensure_projected() != []
    assert stocked.tracking.memory.aliases["toy"] == {"production": "1"}
    assert stocked.assignment("toy").projected
    assert stocked.ensure_projected() == []


def test_aliases_and_stage_tags_follow_every_move(stocked):
    promote(stocked, "1.0.0")
    promote(stocked, "1.1.0")
    promote(stocked, "1.2.0", stage="Staging")
    memory = stocked.tracking.memory
    assert memory.aliases["toy"] == {"previous": "1", "production": "2", "staging": "3"}
    tags = [memory.versions["toy", str(n)].tags["robustidps.stage"] for n in (1, 2, 3, 4)]
    assert tags == ["Archived", "Production", "Staging", "None"]


def test_repair_puts_aliases_that_a_person_moved_back(stocked):
    promote(stocked, "1.0.0", "1.1.0")
    aliases = stocked.tracking.memory.aliases["toy"]
    aliases["production"] = "4"
    del aliases["previous"]
    assert len(stocked.repair()) == 2
    assert aliases == {"production": "2", "previous": "1"}


def test_a_verdict_that_does_not_promote_moves_nothing(stocked):
    for verdict in (REFUSE, {"outcome": "hold", "reasons": ["too little traffic"]}, None, {}):
        with pytest.raises(ModelValidationError):
            stocked.transition("toy", "1.0.0", "Production", verdict=verdict)
    assert stocked.assignment("toy").generation == 0


def test_a_refusal_is_in_the_history_with_its_reasons(stocked):
    stocked.record_refusal(
        "toy", "1.0.0", "Production", verdict=REFUSE, rule_set="default", evidence={"accuracy": 0.871}
    )
    entry = stocked.history("toy")[-1]
    assert (entry.action, entry.verdict, entry.reasons) == ("refuse", "reject", ("accuracy 0.871 < 0.95",))
    assert entry.evidence == {"accuracy": 0.871} and entry.actor_source == "os"
    with pytest.raises(InputError):
        stocked.record_refusal("toy", "1.0.0", "Production", verdict=APPROVE)


def test_a_judgement_of_a_state_that_is_gone_is_not_carried_out(stocked):
    before = stocked.assignment("toy").generation
    stocked.transition("toy", "1.0.0", "Production", verdict=APPROVE, actor="ann", actor_source="token")
    with pytest.raises(ConflictError, match=r"promote of 1\.0\.0 to Production by ann"):
        stocked.transition("toy", "1.1.0", "Production", verdict=APPROVE, expected_generation=before)
    assert stocked.assignment("toy").production == "1.0.0"


def test_promoting_what_is_there_already_says_since_when_and_by_whom(stocked):
    stocked.transition("toy", "1.0.0", "Production", verdict=APPROVE, actor="ann", actor_source="token")
    with pytest.raises(ConflictError, match=r"is in Production already .*by ann at"):
        promote(stocked, "1.0.0")


def test_a_name_without_proof_is_recorded_as_unverified(stocked):
    entry = stocked.transition("toy", "1.0.0", "Staging", verdict=APPROVE, actor="mallory\x1b[31m")
    assert (entry.actor, entry.actor_source) == ("mallory?[31m", "unverified")


def test_the_os_user_is_not_taken_from_the_environment(stocked, monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    assert stocked.transition("toy", "1.0.0", "Staging", verdict=APPROVE).actor != "somebody-else"


def test_a_rollback_goes_to_previous_and_needs_no_mlflow(stocked):
    promote(stocked, "1.0.0", "1.1.0")
    stocked.tracking.away = True
    entry = stocked.rollback("toy", reason="ticket 4711")
    assert (entry.from_version, entry.version, entry.reasons) == ("1.1.0", "1.0.0", ("ticket 4711",))
    assert stocked.assignment("toy").production == "1.0.0"
    with pytest.raises(RefusedError, match="no previous version"):
        stocked.rollback("toy")


def test_a_rollback_to_a_bundle_that_is_gone_or_edited_is_refused(stocked):
    promote(stocked, "1.0.0", "1.1.0")
    kept = stocked.cache.path(stocked.version("toy", "1.0.0").digest)
    edit(kept)
    with pytest.raises(BundleError, match="was changed"):
        stocked.rollback("toy")
    kept.rename(kept.with_name("elsewhere"))
    with pytest.raises(NotFoundError, match="not kept on this machine"):
        stocked.rollback("toy")
    assert stocked.assignment("toy").production == "1.1.0"
    assert any("fetched for rollbacks" in line for line in stocked.repair())
    assert stocked.rollback("toy").version == "1.0.0"


def test_a_withdrawn_version_is_neither_promoted_nor_rolled_back_to_nor_latest(stocked):
    promote(stocked, "1.0.0", "1.1.0", "1.2.0")
    stocked.withdraw("toy", "1.1.0", reason="trained on wrong labels")
    assert stocked.assignment("toy").previous == "1.0.0"
    with pytest.raises(RefusedError, match="was withdrawn"):
        promote(stocked, "1.1.0")
    assert stocked.rollback("toy").version == "1.0.0"
    assert stocked.resolve("toy").version == "1.0.0"


def test_a_loaded_model_answers_raw_features_with_probabilities(stocked):
    promote(stocked, "1.0.0")
    handle = stocked.load_model("toy", "production")
    x = toy_traffic(20, seed=2).features
    assert handle.version == "1.0.0"
    np.testing.assert_allclose(handle(x).sum(1), 1, atol=1e-5)


def test_latest_is_the_newest_approved_version_not_the_newest_one(stocked):
    with pytest.raises(NotFoundError, match="no version was approved yet"):
        stocked.load_model("toy")
    promote(stocked, "1.1.0")
    promote(stocked, "1.0.0", stage="Staging")
    assert stocked.load_model("toy").version == "1.1.0"
    assert stocked.load_model("toy", "staging").version == "1.0.0"
    assert stocked.load_model("toy", "1.10.0").version == "1.10.0"
    promote(stocked, "1.2.0")
    assert stocked.load_model("toy").version == "1.2.0"
    stocked.rollback("toy")
    assert stocked.load_model("toy").version == "1.1.0"


def test_a_version_or_model_that_is_not_there_is_named_with_those_that_are(stocked):
    with pytest.raises(NotFoundError, match=r"toy 9\.0\.0.*1\.10\.0"):
        stocked.load_model("toy", "9.0.0")
    with pytest.raises(NotFoundError, match="there are: toy"):
        stocked.load_model("other")
    with pytest.raises(NotFoundError):
        stocked.history("other")


def test_an_artefact_edited_in_mlflow_is_noticed_when_it_is_fetched(stocked):
    record = stocked.version("toy", "1.0.0")
    edit(stocked.settings.home / "memory" / record.run_id)
    assert not stocked.check("toy").problems
    assert ["artefact in MLflow was edited" in str(p) for p in stocked.check("toy", artifacts=True).problems] == [True]
    kept = stocked.cache.path(record.digest)
    kept.rename(kept.with_name("elsewhere"))
    with pytest.raises(BundleError, match=r"toy 1\.0\.0.*artefact in MLflow was edited"):
        stocked.load_model("toy", "1.0.0")
    assert not stocked.cache.has(record.digest)


def test_hot_swap_goes_through_the_rules(stocked):
    asked = []

    def judge(registry, name, version, stage):
        asked.append((name, version, stage))
        return APPROVE if version != "1.2.0" else REFUSE

    assert stocked.hot_swap_model("toy", "1.0.0", judge=judge).version == "1.0.0"
    with pytest.raises(ModelValidationError, match=r"accuracy 0\.871 < 0\.95"):
        stocked.hot_swap_model("toy", "1.2.0", judge=judge)
    assert asked == [("toy", "1.0.0", "Production"), ("toy", "1.2.0", "Production")]
    assert stocked.assignment("toy").production == "1.0.0"
    assert stocked.history("toy")[-1].action == "refuse"


def test_a_validation_function_is_one_rule_more_and_can_not_overrule_the_others(stocked):
    x = toy_traffic(20, seed=2).features
    with pytest.raises(ModelValidationError, match="validation_fn"):
        stocked.hot_swap_model("toy", "1.0.0", lambda model: model(x).shape == (1, 1), judge=lambda *_: APPROVE)
    with pytest.raises(ModelValidationError, match="accuracy"):
        stocked.hot_swap_model("toy", "1.0.0", lambda model: True, judge=lambda *_: REFUSE)
    assert stocked.hot_swap_model("toy", "1.0.0", lambda model: bool(model(x).any()), judge=lambda *_: APPROVE)


def test_history_answers_what_was_in_production_on_a_day(stocked):
    before = datetime.now(UTC)
    promote(stocked, "1.0.0")
    between = stocked.history("toy")[-1].time
    promote(stocked, "1.1.0")
    assert stocked.production_at("toy", before.replace(year=2020)) is None
    assert stocked.production_at("toy", between).standing["production"] == "1.0.0"
    assert stocked.production_at("toy", datetime.now(UTC)).standing["production"] == "1.1.0"


def test_what_a_version_is_judged_on_is_kept_with_it(registry, bundles):
    facts = {
        "path": "/data/held.parquet",
        "digest": "ab" * 32,
        "dataset": "simulated",
        "rules": "default",
        "drift_share": 0.1,
    }
    registry.register_model("toy", "1.0.0", bundles["1.0.0"], held_out=facts)
    assert registry.version("toy", "1.0.0").held_out == facts


def test_a_promotion_and_a_rollback_are_committed_well_within_a_second(stocked):
    import time

    promote(stocked, "1.0.0")
    began = time.perf_counter()
    stocked.transition("toy", "1.1.0", "Production", verdict=APPROVE, project=False)
    stocked.rollback("toy")
    assert time.perf_counter() - began < 1.0


def test_reading_history_rolling_back_and_loading_do_not_import_mlflow(stocked):
    promote(stocked, "1.0.0", "1.1.0")
    script = f"""
        import sys
        from robustidps.registry.registry import ModelRegistry
        registry = ModelRegistry({str(stocked.settings.home)!r})
        registry.history("toy"); registry.models(); registry.verify()
        registry.rollback("toy")
        registry.load_model("toy", "production")
        print(sorted({{"mlflow", "alembic", "prefect", "pandas", "torch"}} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_repair_leaves_a_registration_alone_that_another_process_finishes_meanwhile(registry, bundles, monkeypatch):
    with monkeypatch.context() as cut, pytest.raises(InterruptedError):

        def killed(*unused):
            raise InterruptedError

        cut.setattr(registry.tracking, "upload_bundle", killed)
        registry.register_model("toy", "1.0.0", bundles["1.0.0"])
    assert registry.version("toy", "1.0.0").status == "reserved"
    register = registry.register_model

    def beaten(*args, **options):
        register(*args, **options)
        return register(*args, **options)

    monkeypatch.setattr(registry, "register_model", beaten)
    registry.repair()
    assert registry.version("toy", "1.0.0").status == "registered"


def test_checking_a_model_that_does_not_exist_is_no_success(stocked):
    with pytest.raises(NotFoundError, match="no such model"):
        stocked.verify("tony")


def test_of_two_that_write_the_witness_at_once_the_later_record_stays(stocked, monkeypatch):
    import json
    import threading

    from robustidps.registry import ledger as ledgers

    earlier, later = stocked.history("toy")[-2:]
    stocked.ledger.witness.unlink()
    write, threads = ledgers.write_atomically, []

    def slow(*args, **options):
        if not threads:
            threads.append(threading.Thread(target=stocked.ledger.remember, args=(later,)))
            threads[0].start()
            threads[0].join(0.5)  # time enough to overtake, were it let
        write(*args, **options)

    monkeypatch.setattr(ledgers, "write_atomically", slow)
    stocked.ledger.remember(earlier)
    threads[0].join()
    assert json.loads(stocked.ledger.witness.read_text())["seq"] == later.seq


def test_what_moves_nothing_is_recorded_and_the_model_stands_where_it_stood(registry, bundles):
    registry.register_model("toy", "1.0.0", bundles["1.0.0"])
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    before = registry.assignment("toy")
    said = registry.record("toy", "1.0.0", "review", reasons=["expected: new backup server"], evidence={"window": "w1"})
    assert (said.action, said.verdict, said.reasons) == ("review", "recorded", ("expected: new backup server",))
    assert registry.assignment("toy") == before and registry.verify().ok
    for action in ("promote", "register", "nonsense"):
        with pytest.raises(InputError, match="nothing that is recorded by itself"):
            registry.record("toy", "1.0.0", action)
