"""Which work a message belongs to. A task id is not enough: several works may have the same task id.

    publish (`work` in our header) ──> attempt 1 ──> retry ──> requeue: the header travels along
    publish by code without guardrails ──> attempt 1, named by its message ──> retry: named by the header from here on

Owns the identity that letters, the memory of duplicates and the marks of started work share. It must not know Celery.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_guardrails.letters.header import Header

__all__ = ["Work", "new_token"]


def new_token() -> str:
    """A random name for one publish, or one delivery: unique among those that share a task id."""
    return os.urandom(8).hex()


@dataclass(frozen=True, slots=True)
class Work:
    """One publish of one task to one queue: if an exchange feeds several queues, each copy is a work.

    A retry and a requeue are the same work. A replacement (`self.replace()`), a broadcast's copy and a further publish
    under the same task id are works of their own.

    `publish` tells this publish from others under the same task id. If a message holds no name for its publish,
    `publish` names only this delivery, and `content` is a digest of the message that is the same at every delivery.
    """

    task_id: str
    task: str
    queue: str
    publish: str
    content: str | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        header: Header,
        *,
        task_id: str,
        task: str,
        queue: str,
        body: Any,
        properties: Mapping[str, Any],
        arrival: str | None,
    ) -> Work:
        """The work that a message belongs to.

        Args:
            header: its guardrails header.
            task_id: its task id.
            task: the name of its task.
            queue: the queue that it came from, "" if it is not known.
            body: its body, bytes or text.
            properties: its properties, as its publisher wrote them.
            arrival: a token of this delivery, for a message without a name for its publish; `None`: draw a new token.
        """
        named = header.work or header.dead_letter_id
        if named is not None:
            return cls(task_id, task, queue, named)
        if header.published_at is not None:  # by guardrails before it wrote `work`
            return cls(task_id, task, queue, _digest(f"{header.published_at.timestamp():.3f}", body))
        own = _own_name(properties, task_id)
        if own is not None:
            return cls(task_id, task, queue, _digest(own, body))
        return cls(task_id, task, queue, arrival or new_token(), _digest("", body))

    @property
    def key(self) -> str:
        """This work as text: the same for the same work, different for every other work."""
        return json.dumps([self.task_id, self.task, self.queue, self.publish])

    @property
    def lasting_key(self) -> str:
        """A text that is the same at every delivery of a message; messages that cannot be told apart share it."""
        return json.dumps([self.task_id, self.task, self.queue, self.content or self.publish])

    @property
    def is_lasting(self) -> bool:
        """Whether a further delivery of the message gives the same work."""
        return self.content is None


def _own_name(properties: Mapping[str, Any], task_id: str) -> str | None:
    """The publisher's name for a message: kombu's virtual transports give each a tag, others may set `message_id`."""
    for name in ("delivery_tag", "message_id"):
        found = properties.get(name)
        if isinstance(found, str) and found and found != task_id:
            return f"{name}={found}"
    return None


def _digest(name: str, body: Any) -> str:
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass") + b"\0", digest_size=16)
    digest.update(raw)
    return digest.hexdigest()
