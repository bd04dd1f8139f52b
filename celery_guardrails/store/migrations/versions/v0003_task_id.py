"""An index that finds dead letters by Celery's task id, or by its beginning."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "ix_guardrails_dead_letter_task_id",
        "guardrails_dead_letter",
        ["task_id", "died_at", "id"],
        postgresql_ops={"task_id": "text_pattern_ops"},
    )
