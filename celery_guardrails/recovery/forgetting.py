"""Finding some work in the ledger by its key, and forgetting it, so that it may be done again: audited.

Owns which work a text means, when it is refused to forget it, and the entry in the audit trail. A ledger may be in
another place than the archive, so the two cannot change together: the entry is written first, and a second one says if
the ledger did not follow. It must not know how a person asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from celery_guardrails.errors import KeyRefused, LedgerError, ReasonRequired
from celery_guardrails.idempotency.key import UnusableKey, key_of_text
from celery_guardrails.idempotency.ledger import Entry, Key, Ledger, State
from celery_guardrails.redaction.process import shown
from celery_guardrails.store import audit
from celery_guardrails.store.audit import AuditEntry
from celery_guardrails.store.engine import Store

__all__ = ["ACTION", "KnownWork", "find_work", "forget_work"]

ACTION = "idempotency.forget"
_LISTED = 5


@dataclass(frozen=True, slots=True)
class KnownWork:
    """Some work that a ledger knows. `may_begin`: whether a message with the key would do the work now."""

    key: Key
    entry: Entry
    may_begin: bool


def find_work(
    ledger: Ledger, environment: str, text: str, scope: str | None = None, scopes: Iterable[str] = ()
) -> KnownWork:
    """The work that people know by a text: a key that a sender gave, a task id, or what a log line shows of a key.

    Args:
        ledger: what knows it.
        environment: of the settings.
        text: the key.
        scope: of the work; `None`: any.
        scopes: those of the application's tasks. If no scope is given, a sender's key is looked for in these first.

    Raises:
        KeyRefused: the ledger knows no such work, or several, or the text can be no key.
        LedgerError: the ledger cannot be asked.
    """
    likely = dict.fromkeys(scopes if scope is None else (scope,))
    try:
        keys = [key_of_text(environment, each, text) for each in likely or ("",)]
    except UnusableKey as exc:
        raise KeyRefused(str(exc)) from exc
    # else it is a key made of arguments, or of a task that the application does not have
    found = _known(ledger, keys) or _known(ledger, ledger.find(environment, text, scope))
    if not found:
        where = "" if scope is None else f" in the scope {shown(scope)}"
        raise KeyRefused(
            f"the ledger {ledger.name} knows no work with the key {shown(text)!r}{where} (environment {environment}): "
            "it never began, or is forgotten since"
        )
    if len(found) > 1:
        listed = ", ".join(sorted({shown(key.scope) for key, _ in found})[:_LISTED])
        raise KeyRefused(f"several works have the key {shown(text)!r}, in the scopes {listed}: name one with --scope")
    (key, entry), now = found[0], ledger.now()
    return KnownWork(key, entry, entry.state is State.FREE or entry.until <= now)


def forget_work(
    store: Store, ledger: Ledger, work: KnownWork, actor: str, reason: str, now: datetime, *, force: bool = False
) -> None:
    """Forget some work: the next message with its key does it again, and counts its fences from 1.

    Args:
        store: the archive, with the audit trail.
        ledger: what knows the work.
        work: what `find_work` found.
        actor: who does it.
        reason: why.
        now: this instant.
        force: also if the work is being done just now, or waits for its next attempt.

    Raises:
        ReasonRequired: the reason is blank.
        KeyRefused: the work is being done, or has been begun or forgotten since it was found.
        LedgerError: the ledger cannot be asked; the audit trail says `failed`.
        StoreError: the archive cannot be written; nothing was changed.
    """
    if not reason.strip():
        raise ReasonRequired("forget")
    entry = work.entry
    if entry.state is State.RUNNING and not work.may_begin and not force:
        raise KeyRefused(
            f"the work {shown(entry.text)!r} is being done, or waits for its next attempt, as {entry.task_id}: "
            "if it is forgotten now, it may be done twice. To forget it all the same, add --force"
        )
    operation, target = uuid4().hex, shown(entry.text)
    begun = AuditEntry(now, actor, ACTION, target, reason.strip(), _before(work), None, operation_id=operation)
    with store.begin() as conn:
        audit.append(conn, begun)
    error: Exception | None = None
    try:
        if not ledger.forget(work.key, None if force else entry.fence):
            error = KeyRefused(f"the work {target!r} was begun again or forgotten meanwhile: look again, then decide")
    except LedgerError as exc:
        error = exc
    if error is None:
        return
    failed = AuditEntry(
        now, actor, ACTION, target, reason.strip(), None, {"error": shown(str(error))}, "failed", operation
    )
    with store.begin() as conn:
        audit.append(conn, failed)
    raise error


def _known(ledger: Ledger, keys: Iterable[Key]) -> list[tuple[Key, Entry]]:
    return [(key, entry) for key in keys if (entry := ledger.entry(key)) is not None]


def _before(work: KnownWork) -> dict[str, Any]:
    entry = work.entry
    return {
        "environment": work.key.environment,
        "scope": entry.scope,
        "task": entry.task,
        "task_id": entry.task_id,
        "state": entry.state.value,
        "fence": entry.fence,
        "done_at": entry.done_at.isoformat() if entry.done_at else None,
    }
