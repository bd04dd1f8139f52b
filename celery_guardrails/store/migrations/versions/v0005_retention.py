"""Retention: an index that finds old rows, and the only way in which a row leaves the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_APPEND_ONLY = "the audit trail is append-only: rows leave it by retention alone"


def upgrade() -> None:
    """Make the index and the table, and let the trigger read the table."""
    op.create_index("ix_guardrails_dead_letter_resolved_at", "guardrails_dead_letter", ["state", "resolved_at"])
    op.create_index("ix_guardrails_audit_at", "guardrails_audit", ["at"])
    op.create_table(
        "guardrails_audit_cut",
        sa.Column("before", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("before", name="pk_guardrails_audit_cut"),
    )
    if op.get_bind().dialect.name == "sqlite":
        _protect_sqlite()
    else:
        _protect_postgresql()


def _protect_sqlite() -> None:
    op.execute("DROP TRIGGER guardrails_audit_refuse_delete")
    op.execute(
        "CREATE TRIGGER guardrails_audit_refuse_delete BEFORE DELETE ON guardrails_audit "
        "WHEN NOT EXISTS (SELECT 1 FROM guardrails_audit_cut WHERE OLD.at < before) "
        f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
    )


def _protect_postgresql() -> None:
    op.execute("DROP TRIGGER guardrails_audit_refuse ON guardrails_audit")
    op.execute(
        "CREATE TRIGGER guardrails_audit_refuse BEFORE UPDATE OR TRUNCATE ON guardrails_audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION guardrails_audit_refuse()"
    )
    op.execute(
        "CREATE FUNCTION guardrails_audit_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF EXISTS (SELECT 1 FROM guardrails_audit_cut WHERE OLD.at < before) THEN RETURN OLD; END IF; "
        f"RAISE EXCEPTION '{_APPEND_ONLY}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER guardrails_audit_refuse_delete BEFORE DELETE ON guardrails_audit "
        "FOR EACH ROW EXECUTE FUNCTION guardrails_audit_refuse_delete()"
    )
