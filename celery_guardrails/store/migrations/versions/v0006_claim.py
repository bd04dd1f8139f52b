"""Each requeue has a claim of its own, with a secret that a report of its end must bring back.

Work that was put back before has no secret: each letter gets a claim without a secret for each earlier requeue, so that
its end is believed as before. A requeue that was given back because nobody confirmed its message gets one, too: the
broker may have the message, and the audit trail knows the requeue.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_letter = sa.table("guardrails_dead_letter", sa.column("id"), sa.column("generation"))
_death = sa.table("guardrails_death", sa.column("letter_id"), sa.column("generation"))
_audit = sa.table(
    "guardrails_audit", sa.column("target"), sa.column("action"), sa.column("outcome"), sa.column("before")
)
_claim = sa.table("guardrails_claim", sa.column("letter_id"), sa.column("generation"), sa.column("digest"))


def upgrade() -> None:
    """Make the table, and the claims of work that is put back already."""
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
    _add_given_back()


def _add_given_back() -> None:
    bind = op.get_bind()
    failed = sa.select(_audit.c.target, _audit.c.before).where(
        _audit.c.action == "requeue", _audit.c.outcome == "failed", _audit.c.target.in_(sa.select(_letter.c.id))
    )
    given_back = set()
    for target, before in bind.execute(failed.distinct()):
        generation = json.loads(before or "{}").get("generation")
        if isinstance(generation, int) and generation > 0:
            given_back.add((target, generation))
    known = (
        {tuple(row) for row in bind.execute(sa.select(_claim.c.letter_id, _claim.c.generation))} if given_back else ()
    )
    rows = [
        {"letter_id": target, "generation": number, "digest": ""} for target, number in given_back.difference(known)
    ]
    if rows:
        bind.execute(_claim.insert(), rows)
