"""Guardians' posters as processes of their own, which end by SIGKILL at a step that the test names.

`python -m tests.integration.alerts.poster` reads one line of JSON after the other: a list of jobs, which it does at the
same time, each in a forked process. It answers with two lines: the processes' ids, and how they ended. Only this file
knows the steps: the program has no hook for them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from celery_guardrails.alerts import outbox as posting
from celery_guardrails.alerts import service as counting
from celery_guardrails.alerts.composition import Composer
from celery_guardrails.alerts.lease import StoreLease
from celery_guardrails.alerts.service import AlertService
from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.sinks.slack import SlackSink
from celery_guardrails.settings import AlertSettings, SlackSettings
from celery_guardrails.store import alert, outbox
from celery_guardrails.store.engine import open_store

__all__ = ["STEPS", "main"]

STEPS: dict[str, tuple[Any, str, str]] = {
    "before the events are loaded": (alert, "unprocessed", "before"),
    "before the group is stored": (counting, "apply_changes", "before"),
    "after the group is stored": (counting, "apply_changes", "after"),
    "with the lease": (StoreLease, "hold", "after"),
    "in the sweep": (outbox, "sweep", "after"),
    "before the claim": (outbox, "claim", "before"),
    "in the claim": (outbox, "claim", "after"),
    "after the claim": (Composer, "compose", "before"),
    "before the message": (SlackSink, "{kind}", "before"),
    "after the message": (SlackSink, "{kind}", "after"),
    "before its place is stored": (posting.Poster, "_sent", "before"),
    "in the store of its place": (outbox, "change", "after"),
    "after its place is stored": (posting.Poster, "_sent", "after"),
}
"""Where a poster ends: a function of the program, and whether before or after it. `{kind}` is `post` or `reply`."""


def main() -> None:
    """Do jobs until stdin ends."""
    for line in sys.stdin:
        pids = [_start(job) for job in json.loads(line)]
        _answer(pids)
        _answer([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])


def _answer(numbers: list[int]) -> None:
    sys.stdout.write(json.dumps(numbers) + "\n")
    sys.stdout.flush()


def _start(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _post(job)
        status = 0
    finally:
        os._exit(status)


def _post(job: dict[str, Any]) -> None:
    """Post what is due at an instant, and what becomes due later, until nothing waits."""
    if job["step"] is not None:
        owner, name, when = STEPS[job["step"]]
        _die_at(owner, name.format(kind=job["kind"]), when)
    store = open_store(job["store"])
    now = datetime.fromisoformat(job["now"])
    service = AlertService(
        store,
        build_sink(SlackSettings(**job["slack"])),
        AlertSettings(),
        lease=StoreLease(store, f"poster-{os.getpid()}"),
    )
    for _ in range(100):
        report = service.run_once(now, flush=True)
        if not report.delivery.leading:
            time.sleep(0.02)  # another one posts: perhaps it is killed, too
            now += timedelta(seconds=10)
        elif report.delivery.next_due is None:
            break
        else:
            now = max(now, report.delivery.next_due)
    service.close(now)
    store.close()


def _die_at(owner: Any, name: str, when: str) -> None:
    whole: Callable[..., Any] = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            whole(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)


if __name__ == "__main__":
    main()
