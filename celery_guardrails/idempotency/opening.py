"""Opens the ledger that the settings name.

Owns which URL means which ledger. A database's is found by its name, because only guardians and commands need a
database's library otherwise.
"""
# on its own: whoever knows a ledger by its protocol need not know the kinds

from __future__ import annotations

from importlib import import_module

from celery_guardrails.errors import LedgerError
from celery_guardrails.idempotency.ledger import Ledger
from celery_guardrails.idempotency.memory import MemoryLedger
from celery_guardrails.idempotency.redis import RedisLedger

__all__ = ["open_ledger"]

_SQL = "celery_guardrails.store.ledger", "SqlLedger"


def open_ledger(url: str) -> Ledger:
    """A ledger by its URL; it connects when it is first asked.

    Args:
        url: of the setting `idempotency.url`, or of the archive.

    Raises:
        LedgerError: the database's library is missing, or the URL is of no ledger.
    """
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return MemoryLedger()
    if scheme in ("redis", "rediss", "unix"):
        return RedisLedger(url)
    try:
        made: Ledger = getattr(import_module(_SQL[0]), _SQL[1])(url)
    except ImportError as exc:
        raise LedgerError(scheme, f"{exc.name} is missing: pip install celery-guardrails") from exc
    return made
