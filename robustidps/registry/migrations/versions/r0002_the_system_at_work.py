"""What runs by itself keeps: requests from MLflow, approvals asked for, windows of traffic that were looked at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Up to which decision requests from MLflow are answered there as well.
    op.add_column("assignment", sa.Column("answered", sa.Integer, nullable=False, server_default="0"))
    # From now on MLflow's picture has its old stages too: they are drawn once, lest they be taken for a person's wish.
    op.execute(sa.text("UPDATE assignment SET applied_generation = generation - 1 WHERE applied_generation > 0"))
    op.create_index("decision_version", "decision", ["model", "version", "action"])
    op.create_table(
        "webhook_seen",
        sa.Column("delivery_id", sa.String(200), primary_key=True),
        sa.Column("received_at", sa.String(40), nullable=False),
    )
    op.create_table(
        "mlflow_request",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("time", sa.String(40), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("mlflow_version", sa.String(20)),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("detail", sa.String(200)),
        sa.Column("actor", sa.String(200), nullable=False),
    )
    op.create_index("mlflow_request_model", "mlflow_request", ["model", "id"])
    op.create_table(
        "approval",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("bundle_digest", sa.String(64), nullable=False),
        sa.Column("rule_set", sa.String(200), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("requested_by", sa.String(200), nullable=False),
        sa.Column("requested_source", sa.String(64), nullable=False),
        sa.Column("requested_at", sa.String(40), nullable=False),
        sa.Column("expires_at", sa.String(40), nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("flow_run_id", sa.String(64)),
        sa.Column("decided_by", sa.String(200)),
        sa.Column("decided_source", sa.String(64)),
        sa.Column("decided_at", sa.String(40)),
        sa.Column("reason", sa.Text),
        sa.CheckConstraint("status IN ('waiting', 'approved', 'refused', 'expired')", name="approval_status"),
        sa.ForeignKeyConstraint(["model", "version"], ["version.model", "version.version"], name="approval_version"),
    )
    op.create_index("approval_model", "approval", ["model", "status"])
    waiting = sa.text("status = 'waiting'")
    op.create_index(
        "approval_waiting",
        "approval",
        ["model", "version", "stage"],
        unique=True,
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_table(
        "drift_window",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("began", sa.String(40), nullable=False),
        sa.Column("ended", sa.String(40), nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("drifted", sa.Boolean, nullable=False),
        sa.Column("alarm", sa.Boolean, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.Column("report", sa.String(500)),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], ["version.model", "version.version"], name="window_version"),
    )
    op.create_index("drift_window_ended", "drift_window", ["model", "ended"])
    op.create_table(
        "notified",
        sa.Column("channel", sa.String(100), primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("retry_at", sa.String(40)),
    )


def downgrade() -> None:
    raise NotImplementedError("a ledger is not taken back; restore a backup instead")
