"""Sentry's SDK in a test's own process: on for a while, and off again without a trace.

`sentry_sdk.init()` without an address is not off: its default integrations patch Celery, logging and threads of the
process, so that every message that later tests publish carries a trace. `tests/unit/house/test_own_servers.py` sees to
it that no other module of the tests initialises the SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sentry_sdk


@contextmanager
def sentry_client(dsn: str, **options: Any) -> Iterator[None]:
    """Have the SDK send to `dsn`, without any integration, until the block ends."""
    try:
        sentry_sdk.init(dsn, **{"default_integrations": False, "auto_enabling_integrations": False, **options})
        yield
    finally:
        sentry_sdk.get_client().close(timeout=0)
        sentry_sdk.get_global_scope().set_client(None)
