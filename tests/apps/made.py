"""An application as the tests' small ones are: what differs between tests comes from environment variables.

They are read when an application is made, because a test process makes several, one after the other.
"""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

from celery_guardrails import GuardedTask
from tests.apps.ends import ran

__all__ = ["make"]


def make(name: str, **guardrails: Any) -> tuple[Celery, Any]:
    """The application, and its task `heard`, by which a test sees that a worker goes on.

    Args:
        name: the application's.
        guardrails: settings beside those that every one of them has.
    """
    prefix = os.environ.get("GUARDED_PREFIX", "guarded")
    app = Celery(name)
    app.conf.update(
        broker_url=os.environ.get("BROKER_URL", "memory://"),
        result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
        task_default_queue=f"{prefix}.tasks",
        broker_connection_retry_on_startup=True,
        guardrails={
            "dead_letter": {"queue": f"{prefix}.dead"},
            "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
            **guardrails,
            **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
        },
    )

    @app.task(base=GuardedTask, name="heard", shared=False)
    def heard(key: str) -> None:
        ran(key)

    return app, heard
