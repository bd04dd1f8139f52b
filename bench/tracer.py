"""The success path inside a worker's process: Celery's tracer on the same body, plain and guarded."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from celery.app.trace import build_tracer, setup_worker_optimizations

from bench import guarded, plain
from bench.figure import Pair, alternate
from celery_guardrails import Guardrails
from celery_guardrails.worker.child.tracer import retrace

CALLS = 20_000
ROUNDS = 15


def measure(rounds: int = ROUNDS, calls: int = CALLS) -> Pair:
    """Microseconds a task, as a worker's child runs it."""
    setup_worker_optimizations(guarded.app, "bench@here")
    retrace(Guardrails.of(guarded.app), "bench@here")
    header = {"guardrails": {"v": 1, "published_at": 1_700_000_000.0}}
    # as a worker does: the registered tasks, not the proxies that decorators leave in modules
    ours = _loop(guarded.app.tasks["bench.works"].__trace__, header, calls)
    theirs = _loop(_plain_tracer(plain.app.tasks["bench.works"]), {}, calls)
    ours(), theirs()
    a, b = alternate(rounds, ours, theirs)
    return Pair("success path in the tracer", a, b)


def _plain_tracer(task: Any) -> Any:
    return build_tracer(task.name, task, task.app.loader, "bench@here", app=task.app)


def _loop(trace: Any, header: dict[str, Any], calls: int) -> Any:
    task_id = str(uuid4())

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
