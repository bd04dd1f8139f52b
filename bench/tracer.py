"""The success path inside a worker's process: Celery's tracer on the same body, plain and guarded."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from celery.app.trace import build_tracer, setup_worker_optimizations

from bench.figure import Pair, alternate
from bench.tasks import app, guarded, plain

CALLS = 20_000
ROUNDS = 15


def measure(rounds: int = ROUNDS, calls: int = CALLS) -> Pair:
    """Microseconds a task, as a worker's child runs it."""
    setup_worker_optimizations(app, "bench@here")
    ours, theirs = _loop(guarded, calls), _loop(plain, calls)
    ours(), theirs()
    a, b = alternate(rounds, ours, theirs)
    return Pair("success path in the tracer", a, b)


def _loop(task: Any, calls: int) -> Any:
    trace = build_tracer(task.name, task, app.loader, "bench@here", app=app)
    task_id = str(uuid4())
    header = {"guardrails": {"v": 1, "published_at": 1_700_000_000.0}} if task is guarded else {}

    def run() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            request = {
                "id": task_id, "retries": 0, "delivery_info": {"exchange": "", "routing_key": "celery"},
                "hostname": "bench@here", "is_eager": False, **header,
            }  # fmt: skip
            trace(task_id, (1, 2), {}, request)
        return (time.perf_counter() - started) / calls * 1e6

    return run
