"""The alerts: events, the groups that count them, and notifications to send."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of the alerts."""
    op.create_table(
        "guardrails_alert_event",
        sa.Column("ref_id", sa.String(64), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("group_key", sa.Text()),
        sa.Column("processed", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("ref_id", name="pk_guardrails_alert_event"),
    )
    op.create_index(
        "ix_guardrails_alert_event_processed_recorded_at", "guardrails_alert_event", ["processed", "recorded_at"]
    )
    op.create_table(
        "guardrails_alert_group",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("baseline", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text()),
        sa.Column("message_ts", sa.Text()),
        sa.Column("shown", sa.String(64)),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_guardrails_alert_group"),
    )
    op.create_index("ix_guardrails_alert_group_state", "guardrails_alert_group", ["state"])
    _outbox()


def _outbox() -> None:
    op.create_table(
        "guardrails_alert_outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("group_key", sa.Text(), nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("notice", sa.String(32), nullable=False),
        sa.Column("broadcast", sa.Boolean(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("post_uid", sa.String(64)),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_at", sa.BigInteger()),
        sa.Column("next_try_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("absent", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text()),
        sa.Column("ts", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_alert_outbox"),
        sa.UniqueConstraint(
            "group_key", "period", "kind", "ordinal", name="uq_guardrails_alert_outbox_group_key_period_kind_ordinal"
        ),
    )
    op.create_index("ix_guardrails_alert_outbox_status", "guardrails_alert_outbox", ["status"])
