"""Testing whether the archive can be written: a letter, its alert event and its group are written and rolled back.

Owns what is written for that. If the test succeeds, an earlier failed write failed because of its own data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from celery_guardrails.errors import StoreError
from celery_guardrails.letters.record import Letter, LetterFailure, OriginalMessage
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.store import alert
from celery_guardrails.store.archive import archive
from celery_guardrails.store.engine import Store
from celery_guardrails.store.record import Archivable

__all__ = ["probe", "raise_if_away"]

_AT = datetime(2000, 1, 1, tzinfo=timezone.utc)
_NAME = "celery_guardrails.probe"


class _Undone(Exception):
    """Rolls the transaction back; never leaves this module."""


@dataclass(frozen=True)
class _Event:
    ref_id: str
    environment: str = _NAME
    task: str = _NAME
    at: datetime = _AT

    def as_payload(self) -> dict[str, Any]:
        return {}


def probe(store: Store) -> None:
    """Check that the archive can be written. The transaction is rolled back.

    Raises:
        StoreError: the archive cannot be written.
    """
    name = str(uuid4())
    try:
        with store.begin() as conn:
            archive(conn, [Archivable.of(_letter(name))], _AT)
            alert.record(conn, [_Event(name)])
            alert.save_group(conn, alert.GroupRow(name, _NAME, _NAME, "idle", 1, 0), _AT)
            raise _Undone
    except _Undone:
        return


def raise_if_away(store: Store, exc: Exception) -> None:
    """Raise an error if the archive cannot be written; otherwise the data of the failed write is to blame.

    Raises:
        StoreError: the archive cannot be written.
    """
    if isinstance(exc, StoreError) and (exc.away or exc.full):
        raise exc
    probe(store)


def _letter(name: str) -> Letter:
    failure = LetterFailure(type=_NAME, message="", category=Category.UNKNOWN, fingerprint="")
    message = OriginalMessage.model_construct(body=b"", headers={}, properties={})
    return Letter(
        id=name,
        task=_NAME,
        task_id="",
        reason=Reason.UNDECODABLE,
        failure=failure,
        correlation={"probe": ""},
        first_failed_at=_AT,
        died_at=_AT,
        message=message,
    )
