"""Versions, assignments, and the ledger that is only ever added to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SQLITE = """
CREATE TRIGGER decision_no_update BEFORE UPDATE ON decision
BEGIN SELECT RAISE(ABORT, 'the decision ledger is only ever added to'); END;
--
CREATE TRIGGER decision_no_delete BEFORE DELETE ON decision
BEGIN SELECT RAISE(ABORT, 'the decision ledger is only ever added to'); END;
--
CREATE TRIGGER decision_in_order BEFORE INSERT ON decision
WHEN NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM decision)
BEGIN SELECT RAISE(ABORT, 'the decision ledger is only ever added to, in order'); END;
"""

POSTGRESQL = """
CREATE FUNCTION robustidps_ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the decision ledger is only ever added to'; END $$;
--
CREATE FUNCTION robustidps_ledger_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM decision) THEN
    RAISE EXCEPTION 'the decision ledger is only ever added to, in order';
  END IF;
  RETURN NEW;
END $$;
--
CREATE TRIGGER decision_no_change BEFORE UPDATE OR DELETE ON decision
FOR EACH ROW EXECUTE FUNCTION robustidps_ledger_refuses();
--
CREATE TRIGGER decision_no_truncate BEFORE TRUNCATE ON decision
FOR EACH STATEMENT EXECUTE FUNCTION robustidps_ledger_refuses();
--
CREATE TRIGGER decision_in_order BEFORE INSERT ON decision
FOR EACH ROW EXECUTE FUNCTION robustidps_ledger_in_order();
"""


def upgrade() -> None:
    op.create_table(
        "version",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("mlflow_version", sa.Integer),
        sa.Column("run_id", sa.String(64)),
        sa.Column("held_out", sa.Text),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.CheckConstraint("status IN ('reserved', 'registered', 'withdrawn')", name="version_status"),
        sa.CheckConstraint("status = 'reserved' OR digest IS NOT NULL", name="version_has_digest"),
    )
    op.create_table(
        "assignment",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("applied_generation", sa.Integer, nullable=False),
        sa.Column("production", sa.String(64)),
        sa.Column("previous", sa.String(64)),
        sa.Column("staging", sa.String(64)),
        sa.Column("pinned_by", sa.String(200)),
        sa.Column("pin_reason", sa.Text),
        sa.Column("pinned_until", sa.String(40)),
        *[
            sa.ForeignKeyConstraint(["model", role], ["version.model", "version.version"], name=f"assignment_{role}")
            for role in ("production", "previous", "staging")
        ],
        sa.CheckConstraint("applied_generation <= generation", name="assignment_generations"),
    )
    op.create_table(
        "decision",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.String(40), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.String(64)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("from_stage", sa.String(16), nullable=False),
        sa.Column("to_stage", sa.String(16), nullable=False),
        sa.Column("from_version", sa.String(64)),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("actor_source", sa.String(64), nullable=False),
        sa.Column("rule_set", sa.String(200)),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("bundle_digest", sa.String(64)),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("standing", sa.Text, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(256), nullable=False),
    )
    op.create_index("decision_model", "decision", ["model", "seq"])
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(256), nullable=False),
        sa.CheckConstraint("id = 1", name="ledger_head_one"),
    )
    script = POSTGRESQL if op.get_bind().dialect.name == "postgresql" else SQLITE
    for statement in script.split("--\n"):
        op.execute(sa.text(statement.strip().replace(":", "\\:")))


def downgrade() -> None:
    raise NotImplementedError("a ledger is not taken back; restore a backup instead")
