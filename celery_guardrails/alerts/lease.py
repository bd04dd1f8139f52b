"""Who posts: one guardian of several, by a lease in the store.

It must not know what is posted. A lease lasts 30 s and is renewed every 10 s; its fence, checked on each write to the
outbox, stops a poster that lost it without knowing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from celery_guardrails.store.engine import Store
from celery_guardrails.store.lease import Lease, acquire, release, renew

__all__ = ["LEASE_NAME", "PosterLease", "SoleLease", "StoreLease"]

LEASE_NAME = "poster"
_LASTS = timedelta(seconds=30)
_RENEW_EVERY = timedelta(seconds=10)


class PosterLease(Protocol):
    """Makes one guardian of several the poster.

    A lease in the store has an attribute `held`, a `store.lease.Lease`, which each claim checks.
    """

    def hold(self, now: datetime) -> int | None:
        """Take or renew the lease; returns its fence, or `None` while another guardian holds it."""

    def release(self, now: datetime) -> None:
        """Give it back."""


class SoleLease:
    """The lease of a poster that is certainly the only one."""

    held: Lease | None = None

    def hold(self, now: datetime) -> int | None:
        """Always held, with fence 1."""
        return 1

    def release(self, now: datetime) -> None:
        """Do nothing: nobody waits for it."""


class StoreLease:
    """The lease `poster` in the store.

    Args:
        store: the archive.
        owner: who this is, unique among guardians.
    """

    def __init__(self, store: Store, owner: str) -> None:
        self.held: Lease | None = None
        self._store = store
        self._owner = owner

    def hold(self, now: datetime) -> int | None:
        """Take the lease, or renew it when it is 10 s old.

        Raises:
            StoreError: the archive cannot be written.
        """
        if self.held is not None and now < self.held.expires_at - _LASTS + _RENEW_EVERY:
            return self.held.fence
        with self._store.begin() as conn:
            renewed = renew(conn, self.held, _LASTS, now) if self.held is not None else None
            self.held = renewed or acquire(conn, LEASE_NAME, self._owner, _LASTS, now)
        return self.held.fence if self.held is not None else None

    def release(self, now: datetime) -> None:
        """Give it back, so that the next poster need not wait.

        Raises:
            StoreError: the archive cannot be written.
        """
        if self.held is not None:
            with self._store.begin() as conn:
                release(conn, self.held, now)
            self.held = None
