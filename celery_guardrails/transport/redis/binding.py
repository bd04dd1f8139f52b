"""A Redis channel whose bindings outlive a server that refuses for now: kombu raises, or logs every second.

Owns declaring and keeping bindings; which refusals pass is in `trouble.py`.
"""

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
        custody: what its worker holds.
    """

    custody: Custody

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep bindings that expire, as kombu 5.7 does each second; it would log each refusal with its traceback."""
        try:
            super().maybe_refresh_binding_expiry()
        except self.ResponseError as exc:
            # a refusal that passes is said by takes and peeks; most channels have nothing to refresh, and know of none
            if passing(exc) is None:
                raise

    def _delete(self, *args: Any, **kwargs: Any) -> None:
        """Delete a queue. One that ends with its channel, refused for now, must not keep the channel from closing."""
        try:
            super()._delete(*args, **kwargs)
        except self.ResponseError as exc:
            if passing(exc) is None or not self._closing:
                raise

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        """Bind a queue. A refusal that passes is a lost connection: a worker waits before it connects anew."""
        try:
            super()._queue_bind(*args, **kwargs)
        except self.ResponseError as exc:
            if passing(exc) is None:
                raise
            raise redis.exceptions.ConnectionError(str(exc)) from exc
