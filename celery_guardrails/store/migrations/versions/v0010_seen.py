"""When each entry of a schedule was last seen in an application, and what summaries had no room for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and make the table."""
    op.add_column("guardrails_expected", sa.Column("seen_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "guardrails_figure_beside",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("environment", "name", name="pk_guardrails_figure_beside"),
    )
