"""The archive: dead letters, their deaths, the audit trail and leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_UNPUBLISHED = sa.text("state = 'requeued' AND requeue_published_at IS NULL")
_APPEND_ONLY = "the audit trail is append-only"


def upgrade() -> None:
    """Make the tables of version 0.1."""
    _dead_letter()
    _death()
    _audit()
    _guardians()
    if op.get_bind().dialect.name == "sqlite":
        _protect_sqlite()
    else:
        _protect_postgresql()


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _dead_letter() -> None:
    op.create_table(
        "guardrails_dead_letter",
        *(_text(name) for name in ("id", "task", "task_id")),
        *(_text(name, nullable=True) for name in ("root_id", "parent_id", "group_id")),
        *(_text(name) for name in ("state", "reason", "category", "error", "message", "fingerprint")),
        sa.Column("generation", sa.Integer(), nullable=False),
        *(_text(name) for name in ("environment", "worker", "queue")),
        _text("owner", nullable=True),
        _text("severity"),
        _text("version", nullable=True),
        _instant("published_at", nullable=True),
        *(_instant(name) for name in ("first_failed_at", "died_at", "archived_at")),
        _instant("requeued_at", nullable=True),
        *(_text(name, nullable=True) for name in ("requeued_by", "requeue_reason")),
        *(_instant(name, nullable=True) for name in ("requeue_tried_at", "requeue_published_at", "resolved_at")),
        sa.Column("regressed", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _text("death_id"),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_dead_letter"),
    )
    op.create_index("ix_guardrails_dead_letter_died_at", "guardrails_dead_letter", ["died_at", "id"])
    for column in ("state", "reason", "fingerprint"):
        op.create_index(f"ix_guardrails_dead_letter_{column}", "guardrails_dead_letter", [column, "died_at", "id"])
    for column in ("task", "queue"):
        op.create_index(
            f"ix_guardrails_dead_letter_{column}",
            "guardrails_dead_letter",
            [column, "died_at", "id"],
            postgresql_ops={column: "text_pattern_ops"},
        )
    op.create_index(
        "ix_guardrails_dead_letter_unpublished",
        "guardrails_dead_letter",
        ["requeue_tried_at"],
        sqlite_where=_UNPUBLISHED,
        postgresql_where=_UNPUBLISHED,
    )


def _death() -> None:
    op.create_table(
        "guardrails_death",
        *(_text(name) for name in ("id", "letter_id")),
        sa.Column("generation", sa.Integer(), nullable=False),
        _instant("died_at"),
        _text("reason"),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_death"),
        sa.ForeignKeyConstraint(["letter_id"], ["guardrails_dead_letter.id"], ondelete="CASCADE"),
    )
    op.create_index("ix_guardrails_death_letter_id", "guardrails_death", ["letter_id", "generation"])
    op.create_table(
        "guardrails_letter_argument",
        *(_text(name) for name in ("letter_id", "name", "value")),
        sa.PrimaryKeyConstraint("letter_id", "name", name="pk_guardrails_letter_argument"),
        sa.ForeignKeyConstraint(["letter_id"], ["guardrails_dead_letter.id"], ondelete="CASCADE"),
    )
    op.create_index(
        "ix_guardrails_letter_argument_value",
        "guardrails_letter_argument",
        ["name", "value"],
        postgresql_ops={"name": "text_pattern_ops", "value": "text_pattern_ops"},
    )


def _audit() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "guardrails_audit",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        _instant("at"),
        *(_text(name) for name in ("actor", "action", "target", "reason")),
        *(_text(name, nullable=True) for name in ("before", "after")),
        _text("outcome"),
        _text("operation_id", nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_guardrails_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_guardrails_audit_target", "guardrails_audit", ["target", "seq"])
    op.create_index("ix_guardrails_audit_actor", "guardrails_audit", ["actor", "seq"])


def _guardians() -> None:
    op.create_table(
        "guardrails_lease",
        *(_text(name) for name in ("name", "owner")),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        _instant("expires_at"),
        sa.PrimaryKeyConstraint("name", name="pk_guardrails_lease"),
    )
    op.create_table(
        "guardrails_guardian",
        _text("id"),
        *(_instant(name) for name in ("started_at", "seen_at")),
        _text("host"),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_guardian"),
    )


def _protect_sqlite() -> None:
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER guardrails_audit_refuse_{verb.lower()} BEFORE {verb} ON guardrails_audit "
            f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
        )


def _protect_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION guardrails_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER guardrails_audit_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON guardrails_audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION guardrails_audit_refuse()"
    )
