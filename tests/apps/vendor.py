"""A library's shared task: registered with every application, by code that knows nothing of guardrails."""

from __future__ import annotations

import os
from pathlib import Path

from celery import shared_task


@shared_task(name="vendor.shared", autoretry_for=(ValueError,), max_retries=9, retry_backoff=True)
def vendor_shared(key: str) -> None:
    with (Path(os.environ["GUARDED_RUNS"]) / key).open("a") as log:
        log.write("{}\n")
    raise ValueError("down")
