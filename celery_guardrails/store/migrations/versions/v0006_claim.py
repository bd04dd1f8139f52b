"""Each requeue has a claim of its own, with a secret that its end must bring back.

What had been put back before brings none: each letter gets a claim without a secret for each time that it was put back,
so that its end is believed as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_letter = sa.table("guardrails_dead_letter", sa.column("id"), sa.column("generation"))
_death = sa.table("guardrails_death", sa.column("letter_id"), sa.column("generation"))
_claim = sa.table("guardrails_claim", sa.column("letter_id"), sa.column("generation"), sa.column("digest"))


def upgrade() -> None:
    """Make the table, and the claims of what is put back already."""
    op.create_table(
        "guardrails_claim",
        sa.Column("letter_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("letter_id", "generation", "digest", name="pk_guardrails_claim"),
        sa.ForeignKeyConstraint(["letter_id"], ["guardrails_dead_letter.id"], ondelete="CASCADE"),
    )
    put_back = sa.union(
        sa.select(_letter.c.id, _letter.c.generation, sa.literal("")).where(_letter.c.generation > 0),
        sa.select(_death.c.letter_id, _death.c.generation, sa.literal("")).where(_death.c.generation > 0),
    )
    op.get_bind().execute(_claim.insert().from_select(["letter_id", "generation", "digest"], put_back))
