"""A column that marks letters whose work may have run already; archived letters are judged by reason and policy."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UNKNOWN_END = ("worker_lost", "result_unstorable", "cancelled")
_NEVER_BEGAN = ("expired", "unknown_task", "undecodable")
_AT_ONCE = 500

_letter = sa.table(
    "guardrails_dead_letter",
    *(sa.column(name) for name in ("id", "reason", "death_id", "may_have_run")),
)
_death = sa.table("guardrails_death", sa.column("id"), sa.column("payload"))


def upgrade() -> None:
    """Add the column, and judge what is archived."""
    op.add_column(
        "guardrails_dead_letter", sa.Column("may_have_run", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    conn = op.get_bind()
    true = sa.true() if conn.dialect.name == "postgresql" else sa.literal(1)
    conn.execute(_letter.update().where(_letter.c.reason.in_(_UNKNOWN_END)).values(may_have_run=true))
    last = ""
    others = (*_UNKNOWN_END, *_NEVER_BEGAN)
    while True:
        query = (
            sa.select(_letter.c.id, _death.c.payload)
            .join(_death, _death.c.id == _letter.c.death_id)
            .where(_letter.c.id > last, _letter.c.reason.not_in(others))
            .order_by(_letter.c.id)
            .limit(_AT_ONCE)
        )
        rows = conn.execute(query).all()
        if not rows:
            return
        last = rows[-1].id
        early = [row.id for row in rows if _is_early(bytes(row.payload))]
        if early:
            conn.execute(_letter.update().where(_letter.c.id.in_(early)).values(may_have_run=true))


def _is_early(payload: bytes) -> bool:
    try:
        return bool(json.loads(payload)["policy"]["acks"] == "early")
    except (ValueError, KeyError, TypeError):
        return False
