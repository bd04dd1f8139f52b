"""The archive's tables, without those of the alerts.

`dead_letter` has one row for each dead work, `death` one for each of its deaths, with the whole letter as published,
and `claim` one for each requeue. `letter_argument` has the values kept in clear, for `arg.NAME`. `audit` says who did
what; `audit_cut` how old an entry must be to be removed. `lease` and `guardian` say which guardian does what.
In the database every name begins with `guardrails_`, because the application may keep the archive among tables of its
own. Knows no query.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text, text
from sqlalchemy.sql import expression

from celery_guardrails.store.metadata import UtcDateTime, metadata

__all__ = ["audit", "audit_cut", "claim", "dead_letter", "death", "guardian", "lease", "letter_argument"]

dead_letter = Table(
    "guardrails_dead_letter",
    metadata,
    Column("id", Text, primary_key=True),  # of the first death
    Column("task", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("root_id", Text),
    Column("parent_id", Text),
    Column("group_id", Text),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("message", Text, nullable=False),  # redacted at capture, cut
    Column("fingerprint", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("environment", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("owner", Text),
    Column("severity", Text, nullable=False),
    Column("version", Text),
    Column("published_at", UtcDateTime),
    Column("first_failed_at", UtcDateTime, nullable=False),
    Column("died_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime, nullable=False),
    Column("requeued_at", UtcDateTime),
    Column("requeued_by", Text),
    Column("requeue_reason", Text),
    Column("requeue_tried_at", UtcDateTime),  # when somebody last began to publish it
    Column("requeue_published_at", UtcDateTime),  # null while claimed and not yet known to be published
    Column("resolved_at", UtcDateTime),  # recovered or discarded
    Column("regressed", Boolean, nullable=False, server_default=expression.false()),
    Column("may_have_run", Boolean, nullable=False, server_default=expression.false()),  # as of the latest death
    Column("attempts", Integer, nullable=False),  # executions of the latest generation
    Column("death_id", Text, nullable=False),  # the latest death, which a requeue would publish
    # text_pattern_ops lets PostgreSQL use an index for `task:billing.*`, whatever the database's collation
    Index("ix_guardrails_dead_letter_died_at", "died_at", "id"),
    Index("ix_guardrails_dead_letter_state", "state", "died_at", "id"),
    Index("ix_guardrails_dead_letter_task", "task", "died_at", "id", postgresql_ops={"task": "text_pattern_ops"}),
    Index(
        "ix_guardrails_dead_letter_task_id", "task_id", "died_at", "id", postgresql_ops={"task_id": "text_pattern_ops"}
    ),
    Index("ix_guardrails_dead_letter_resolved_at", "state", "resolved_at"),
    Index("ix_guardrails_dead_letter_reason", "reason", "died_at", "id"),
    Index("ix_guardrails_dead_letter_queue", "queue", "died_at", "id", postgresql_ops={"queue": "text_pattern_ops"}),
    Index("ix_guardrails_dead_letter_fingerprint", "fingerprint", "died_at", "id"),
    Index(
        "ix_guardrails_dead_letter_unpublished",
        "requeue_tried_at",
        sqlite_where=text("state = 'requeued' AND requeue_published_at IS NULL"),
        postgresql_where=text("state = 'requeued' AND requeue_published_at IS NULL"),
    ),
)

death = Table(
    "guardrails_death",
    metadata,
    Column("id", Text, primary_key=True),
    Column("letter_id", Text, ForeignKey("guardrails_dead_letter.id", ondelete="CASCADE"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("died_at", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),  # the letter's JSON as published
    Index("ix_guardrails_death_letter_id", "letter_id", "generation"),
)

claim = Table(
    "guardrails_claim",
    metadata,
    Column("letter_id", Text, ForeignKey("guardrails_dead_letter.id", ondelete="CASCADE"), primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("digest", Text, primary_key=True),  # of its token; "" where it has none
    Column("token", Text),  # until the message that carries it is known to be published
)

letter_argument = Table(
    "guardrails_letter_argument",
    metadata,
    Column("letter_id", Text, ForeignKey("guardrails_dead_letter.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Index(
        "ix_guardrails_letter_argument_value",
        "name",
        "value",
        postgresql_ops={"name": "text_pattern_ops", "value": "text_pattern_ops"},
    ),
)

audit = Table(
    "guardrails_audit",
    metadata,
    # SQLite numbers rows by itself, and never twice the same, only in a column that is INTEGER and AUTOINCREMENT
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("before", Text),  # JSON
    Column("after", Text),  # JSON
    Column("outcome", Text, nullable=False),
    Column("operation_id", Text),
    Index("ix_guardrails_audit_target", "target", "seq"),
    Index("ix_guardrails_audit_actor", "actor", "seq"),
    Index("ix_guardrails_audit_at", "at"),
    sqlite_autoincrement=True,
)

audit_cut = Table("guardrails_audit_cut", metadata, Column("before", UtcDateTime, primary_key=True))

lease = Table(
    "guardrails_lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

guardian = Table(
    "guardrails_guardian",
    metadata,
    Column("id", Text, primary_key=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
)
