"""Messages as nobody's Celery would write them, straight on a queue.

Owns publishing below Celery and below kombu's serialisation: body, content type, encoding, headers and properties go
out as they are given.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

__all__ = ["Published", "publish", "task_message"]


@dataclass(frozen=True)
class Published:
    """One message; `None` leaves a field out."""

    body: Any
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str | None = "application/json"
    content_encoding: str | None = "utf-8"
    properties: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = 0


def publish(app: Celery, queue: str, messages: Iterable[Published]) -> int:
    """Put messages on a queue of the application, which is declared, and return how many they were."""
    count = 0
    with app.connection_for_write() as connection, connection.channel() as channel:
        app.amqp.queues[queue](channel).declare()
        for message in messages:
            made = channel.prepare_message(
                message.body,
                priority=message.priority,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers=dict(message.headers),
                properties=dict(message.properties),
            )
            channel.basic_publish(made, exchange="", routing_key=queue)
            count += 1
    return count


def task_message(task: Any, args: Any = (), kwargs: Any = None, embed: Any = None, **headers: Any) -> Published:
    """A message as Celery writes it; `headers` change or add headers, `...` takes one out."""
    task_id = str(uuid.uuid4())
    default = {
        "lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
        "shadow": None, "eta": None, "expires": None, "retries": 0, "timelimit": [None, None], "ignore_result": False,
        "argsrepr": "", "kwargsrepr": "", "origin": "test",
    }  # fmt: skip
    merged = {key: value for key, value in {**default, **headers}.items() if value is not ...}
    no_embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = [list(args) if isinstance(args, tuple) else args, {} if kwargs is None else kwargs, embed or no_embed]
    return Published(json.dumps(body).encode(), merged)
