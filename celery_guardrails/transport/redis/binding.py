"""A Redis channel whose bindings survive a server that refuses for now: kombu would raise, or log every second.

Owns declaring and keeping bindings; `trouble.py` knows which refusals pass.
"""
# on its own: channel.py inherits it, and keeps to taking messages itself

from __future__ import annotations

from typing import Any

import redis
from kombu.transport import redis as kombu_redis

from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.trouble import passing

__all__ = ["BindingChannel"]


class BindingChannel(kombu_redis.Channel):  # type: ignore[misc]
    """A channel that binds patiently.

    Attributes:
        custody: what the channel's worker holds.
    """

    custody: Custody

    def maybe_refresh_binding_expiry(self) -> None:
        """Refresh bindings that expire, as kombu 5.7 does each second, but without its traceback for each refusal."""
        try:
            super().maybe_refresh_binding_expiry()
        except self.ResponseError as exc:
            # Takes and peeks log a refusal that passes. Most channels have no binding to refresh, and see no refusal.
            if passing(exc) is None:
                raise

    def _delete(self, *args: Any, **kwargs: Any) -> None:
        """Delete a queue. If the server refuses for now, a channel that closes must still be able to close."""
        try:
            super()._delete(*args, **kwargs)
        except self.ResponseError as exc:
            if passing(exc) is None or not self._closing:
                raise

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        """Bind a queue. A refusal that passes counts as a lost connection: a worker waits before it connects again."""
        try:
            super()._queue_bind(*args, **kwargs)
        except self.ResponseError as exc:
            if passing(exc) is None:
                raise
            raise redis.exceptions.ConnectionError(str(exc)) from exc
