# ruff: noqa: S608 - these tests are the attacker
"""Someone who can write to the state store's file edits what was decided. Each edit is found, and its row named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from robustidps.errors import IntegrityError, LedgerError
from robustidps.judging import gather
from robustidps.registry import ledger as ledgers
from robustidps.registry.keys import InstallationKey
from robustidps.registry.registry import ModelRegistry
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE, REFUSE, memory_registry

ROWS = 7


@pytest.fixture(scope="module")
def decided(tmp_path_factory) -> Path:
    """A home with seven decisions: two registrations, two promotions, a refusal, a rollback, one more promotion."""
    folder = tmp_path_factory.mktemp("decided")
    registry = memory_registry(folder / "home")
    for seed, version in enumerate(("1.0.0", "1.1.0")):
        registry.register_model("toy", version, toy_bundle(folder / version, version=version, seed=seed).path)
    registry.transition("toy", "1.0.0", "Production", verdict=APPROVE, evidence={"accuracy": 0.98})
    registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    registry.record_refusal("toy", "1.0.0", "Staging", verdict=REFUSE)
    registry.rollback("toy", reason="too many false alerts")
    registry.transition("toy", "1.1.0", "Staging", verdict=APPROVE)
    registry.verify()
    return folder / "home"


@pytest.fixture
def home(decided, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(decided, tmp_path / "home"))


def attack(home: Path, *statements: str, parameters: tuple = ()) -> None:
    """Runs SQL with the triggers taken away, as someone with the file in hand would."""
    with closing(sqlite3.connect(home / "state.db")) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement, parameters)


def rows(home: Path) -> list[dict]:
    with closing(sqlite3.connect(home / "state.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM decision ORDER BY seq")]


def found(home: Path) -> list[int | None]:
    """The rows that `check` names; and `verify` has to fail exactly when there are any."""
    registry = memory_registry(home)
    report = registry.check()
    if report.problems:
        with pytest.raises(LedgerError):
            registry.verify()
    return [problem.seq for problem in report.problems]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decision SET actor = 'nobody' WHERE seq = 2",
        "DELETE FROM decision WHERE seq = 7",
        "DELETE FROM decision",
        "INSERT OR REPLACE INTO decision SELECT * FROM decision WHERE seq = 3",
        "INSERT INTO decision SELECT 99, time, model, version, action, from_stage, to_stage, from_version, actor, "
        "actor_source, rule_set, verdict, reasons, evidence, bundle_digest, generation, standing, previous_hash, "
        "'x', key_id, signature FROM decision WHERE seq = 3",
    ],
)
def test_the_database_itself_refuses_to_change_the_ledger(home, statement):
    with (
        closing(sqlite3.connect(home / "state.db")) as connection,
        pytest.raises(sqlite3.IntegrityError, match="added to"),
    ):
        connection.execute(statement)


def test_an_unedited_ledger_is_found_in_order(home):
    assert found(home) == []


def test_an_edit_of_any_field_of_any_row_is_found_and_the_row_named(home):
    original = (home / "state.db").read_bytes()
    columns = [name for name in rows(home)[0] if name != "seq"]
    for seq in range(1, ROWS + 1):
        for column in columns:
            attack(home, f"UPDATE decision SET {column} = {column} || 'x' WHERE seq = {seq}")
            attack(home, f"UPDATE decision SET {column} = 'x' WHERE seq = {seq} AND {column} IS NULL")
            assert found(home)[0] == seq, f"{column} of row {seq}"
            (home / "state.db").write_bytes(original)


@pytest.mark.parametrize("seq", range(1, ROWS + 1))
def test_a_deleted_row_is_named(home, seq):
    attack(home, f"DELETE FROM decision WHERE seq = {seq}")
    assert seq in found(home)


def test_swapped_rows_are_named(home):
    attack(
        home,
        "UPDATE decision SET seq = 100 WHERE seq = 3",
        "UPDATE decision SET seq = 3 WHERE seq = 4",
        "UPDATE decision SET seq = 4 WHERE seq = 100",
    )
    assert {3, 4} <= set(found(home))


def test_deleting_a_row_and_closing_the_gap_is_found(home):
    attack(
        home,
        "DELETE FROM decision WHERE seq = 5",
        "UPDATE decision SET seq = 5 WHERE seq = 6",
        "UPDATE decision SET seq = 6 WHERE seq = 7",
    )
    assert {5, 6} <= set(found(home))


def test_a_cut_off_end_is_found_even_when_an_old_signed_head_is_put_back(home):
    """The head of row 5 was validly signed once; an attacker who kept a copy can put it back."""
    key = InstallationKey(home / "keys")
    last = rows(home)[4]
    key_id, signature = key.sign(ledgers._head_content(5, last["hash"]))
    standing = json.loads(last["standing"])
    attack(home, "DELETE FROM decision WHERE seq > 5")
    with closing(sqlite3.connect(home / "state.db")) as connection, connection:
        connection.execute(
            "UPDATE ledger_head SET seq = 5, hash = ?, key_id = ?, signature = ?", (last["hash"], key_id, signature)
        )
        connection.execute(
            "UPDATE assignment SET production = ?, previous = ?, staging = ?, generation = ?, applied_generation = 0",
            (standing["production"], standing["previous"], standing["staging"], last["generation"]),
        )
    report = memory_registry(home).check()
    assert [p.seq for p in report.problems] == [7]
    assert "the end was cut off" in report.problems[0].what


def test_a_cut_off_end_is_found_by_the_signed_head_without_the_witness(home):
    (home / "keys" / "ledger.witness.json").unlink()
    attack(home, "DELETE FROM decision WHERE seq = 7")
    assert found(home)[0] == 7


def test_a_head_that_is_gone_or_edited_is_found(home):
    original = (home / "state.db").read_bytes()
    for statement in (
        "DELETE FROM ledger_head",
        "UPDATE ledger_head SET seq = 6",
        "UPDATE ledger_head SET signature = 'ab'",
    ):
        attack(home, statement)
        assert found(home) != [], statement
        (home / "state.db").write_bytes(original)


def forge(home: Path, seq: int, key: InstallationKey, *, key_id: str | None = None, **changes) -> None:
    """Rewrites a row and every later one with right hashes, signed with `key`, head and witness included."""
    content = rows(home)
    before = content[seq - 2]["hash"] if seq > 1 else ledgers.GENESIS
    attack(home, f"DELETE FROM decision WHERE seq >= {seq}")
    with closing(sqlite3.connect(home / "state.db")) as connection, connection:
        for row in content[seq - 1 :]:
            row = (
                row | (changes if row["seq"] == seq else {}) | {"previous_hash": before, "key_id": key_id or key.key_id}
            )
            payload = ledgers._content(row)
            row["hash"] = before = ledgers.hashlib.sha256(payload).hexdigest()
            row["signature"] = key.sign(ledgers.RECORD_PREFIX + payload)[1]
            connection.execute(f"INSERT INTO decision VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
        _, signature = key.sign(ledgers._head_content(ROWS, before))
        head = (before, key_id or key.key_id, signature)
        connection.execute("UPDATE ledger_head SET hash = ?, key_id = ?, signature = ?", head)
    (home / "keys" / "ledger.witness.json").write_text(json.dumps({"seq": ROWS, "hash": before}))


def test_a_chain_written_anew_with_another_key_is_found_at_the_first_forged_row(home, tmp_path):
    forge(home, 4, InstallationKey(tmp_path / "mine"), actor="nobody")
    report = memory_registry(home).check()
    assert report.problems[0].seq == 4 and "not this installation's" in report.problems[0].what


def test_a_chain_written_anew_under_our_key_id_is_found(home, tmp_path):
    own = InstallationKey(home / "keys").key_id
    forge(home, 4, InstallationKey(tmp_path / "mine"), key_id=own, actor="nobody")
    report = memory_registry(home).check()
    assert report.problems[0].seq == 4 and "does not match its content" in report.problems[0].what


def test_a_rollback_dressed_up_with_the_real_key_still_has_to_make_sense(home):
    """Even the key's holder can't record a standing that the decisions so far don't give."""
    forge(home, 6, InstallationKey(home / "keys"), standing='{"previous":"1.0.0","production":"1.1.0","staging":null}')
    report = memory_registry(home).check()
    assert report.problems[0].seq == 6 and "another standing" in report.problems[0].what


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE assignment SET production = '1.1.0'",
        "UPDATE assignment SET previous = '1.0.0'",
        "UPDATE assignment SET generation = generation + 1",
        "DELETE FROM assignment",
        "UPDATE version SET digest = 'ab' WHERE version = '1.0.0'",
        "UPDATE version SET held_out = '{\"path\":\"easy.parquet\"}' WHERE version = '1.0.0'",
        "UPDATE version SET version = '3.0.0' WHERE version = '1.1.0'",
        "INSERT INTO version (model, version, status, digest, author, created_at) "
        "VALUES ('toy', '4.0.0', 'registered', 'ab', 'me', '2026-01-01T00:00:00+00:00')",
    ],
)
def test_tables_that_say_something_else_than_the_ledger_are_found(home, statement):
    attack(home, statement)
    assert found(home) != []


def test_nothing_is_built_on_an_edited_ledger(home):
    attack(home, "UPDATE decision SET verdict = 'promote' WHERE seq = 5")
    registry = memory_registry(home)
    before = rows(home)
    for move in (
        lambda: registry.transition("toy", "1.1.0", "Production", verdict=APPROVE),
        lambda: registry.load_model("toy", "production"),
        lambda: registry.load_model("toy"),
        lambda: registry.repair(),
    ):
        with pytest.raises(LedgerError, match="ledger row 5"):
            move()
    assert rows(home) == before


def test_production_set_past_the_ledger_is_not_loaded(home):
    attack(home, "UPDATE assignment SET production = '1.1.0'")
    with pytest.raises(LedgerError, match="production"):
        memory_registry(home).load_model("toy", "production")


def test_a_digest_exchanged_past_the_ledger_is_not_loaded(home):
    registry = memory_registry(home)
    other = registry.version("toy", "1.1.0").digest
    attack(home, "UPDATE version SET digest = ? WHERE version = '1.0.0'", parameters=(other,))
    with pytest.raises(IntegrityError):
        memory_registry(home).load_model("toy", "production")


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE version SET digest = (SELECT digest FROM version WHERE version = '1.1.0') WHERE version = '1.0.0'",
        'UPDATE version SET held_out = \'{"path":"easy.parquet","rules":"lenient"}\' WHERE version = \'1.0.0\'',
    ],
    ids=["the bundle exchanged", "easier traffic and rules"],
)
def test_a_version_edited_past_the_ledger_is_neither_loaded_by_number_nor_judged_nor_moved(home, edit):
    attack(home, edit)
    registry = memory_registry(home)
    before = rows(home)
    for act in (
        lambda: registry.load_model("toy", "1.0.0"),
        lambda: gather(registry, "toy", "1.0.0"),
        lambda: registry.transition("toy", "1.0.0", "Production", verdict=APPROVE),
        lambda: registry.withdraw("toy", "1.0.0", reason="seems odd"),
    ):
        with pytest.raises(LedgerError, match="version table"):
            act()
    assert rows(home) == before


def test_an_edited_row_gives_one_message_with_row_and_remedy(home):
    attack(home, "UPDATE decision SET reasons = '[\"all is well\"]' WHERE seq = 6")
    with pytest.raises(LedgerError) as caught:
        ModelRegistry(home).verify("toy")
    assert str(caught.value).startswith("ledger row 6: was changed after it was written")
    assert "backup" in caught.value.remedy


def test_no_number_is_given_out_where_the_state_store_was_lost(home):
    """Else a training would begin anew at 1.0.0, and fail minutes later when it is to be registered."""
    for file in home.glob("state.db*"):
        file.unlink()
    registry = memory_registry(home)
    with pytest.raises(LedgerError, match="cut off"):
        registry.reserve_version("toy")
    assert registry.models() == []


def test_a_decision_hidden_by_naming_another_model_is_found_before_anything_is_built_on_it(home):
    """Without row 6, the rollback, 1.1.0 would be in Production: the tables are made to say so, too."""
    attack(
        home,
        "UPDATE decision SET model = 'other' WHERE seq IN (6, 7)",
        "UPDATE assignment SET production = '1.1.0', previous = '1.0.0', staging = NULL, generation = 2, "
        "applied_generation = 0",
    )
    registry = memory_registry(home)
    for act in (
        lambda: registry.load_model("toy", "production"),
        lambda: registry.transition("toy", "1.0.0", "Staging", verdict=APPROVE),
    ):
        with pytest.raises(LedgerError, match="ledger row 6"):
            act()


def test_a_row_that_continues_from_an_edited_one_does_not_hide_the_edit(home):
    """An edited row given its right hash, and the next row's link bent to it: the next row's own hash tells."""
    row = rows(home)[4] | {"verdict": "promote"}
    digest = ledgers.hashlib.sha256(ledgers._content(row)).hexdigest()
    attack(home, "UPDATE decision SET verdict = 'promote', hash = ? WHERE seq = 5", parameters=(digest,))
    attack(home, "UPDATE decision SET previous_hash = ? WHERE seq = 6", parameters=(digest,))
    with pytest.raises(LedgerError, match="ledger row 6"):
        memory_registry(home).load_model("toy", "production")


def test_an_edit_behind_a_running_process_changes_nothing_there_and_is_found_within_the_minute(home, monkeypatch):
    registry = memory_registry(home)
    assert registry.resolve("toy", "production").version == "1.0.0"
    attack(home, "UPDATE decision SET action = 'promote', version = '1.1.0' WHERE seq = 6")
    assert registry.resolve("toy", "production").version == "1.0.0"  # from what it has checked
    monkeypatch.setattr(ledgers, "MEMORY_S", 0.0)
    with pytest.raises(LedgerError, match="ledger row 6"):
        registry.resolve("toy", "production")


def test_a_store_put_back_to_an_older_state_behind_a_running_process_is_found(home):
    registry = memory_registry(home)
    registry.resolve("toy", "production")
    attack(home, "DELETE FROM decision WHERE seq = 7")
    with pytest.raises(LedgerError, match="row 7"):
        registry.resolve("toy", "production")


def test_the_quick_digest_of_a_record_is_its_hash(home):
    for row in rows(home):
        assert ledgers._quick_digest(tuple(row[name] for name in ledgers._COLUMNS)) == row["hash"]
    assert ledgers._quick_digest((*list(rows(home)[0].values())[:-1], b"x")) == rows(home)[0]["hash"]  # the signature
