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
from celery_guardrails.alerts.sinks.alert import Alert
from celery_guardrails.alerts.sinks.apprise import AppriseSink
from celery_guardrails.alerts.sinks.build import build_sinks
from celery_guardrails.alerts.sinks.own import OwnSink
from celery_guardrails.alerts.sinks.slack import SlackSink, SlackWebhookSink
from celery_guardrails.settings import load_settings
from celery_guardrails.store import alert, outbox
from celery_guardrails.store.engine import open_store

__all__ = ["STEPS", "Pager", "main"]

STEPS: dict[str, tuple[Any, str, str]] = {
    "before the events are loaded": (alert, "unprocessed", "before"),
    "before the group is stored": (counting, "apply_changes", "before"),
    "after the group is stored": (counting, "apply_changes", "after"),
    "with the lease": (StoreLease, "hold", "after"),
    "in the sweep": (outbox, "sweep", "after"),
    "before the claim": (outbox, "claim", "before"),
    "in the claim": (outbox, "claim", "after"),
    "after the claim": (Composer, "compose", "before"),
    "before the message": (None, "{kind}", "before"),
    "after the message": (None, "{kind}", "after"),
    "before its place is stored": (posting.Poster, "_sent", "before"),
    "in the store of its place": (outbox, "change", "after"),
    "after its place is stored": (posting.Poster, "_sent", "after"),
}
"""Where a poster ends: a function of the program, and whether before or after it.

`None` is the sink's class, `{kind}` its method: `post` or `reply`.
"""
_MOST = 120.0
CLASSES = {"slack": SlackSink, "slack webhook": SlackWebhookSink, "apprise": AppriseSink, "own": OwnSink}


class Pager:
    """A sink of a user's own: it appends what it gets to the file that the environment names."""

    def __init__(self) -> None:
        self.path = os.environ["PAGER_FILE"]

    def send(self, alert: Alert) -> None:
        """Append one line of JSON."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"uid": alert.uid, "text": alert.text}) + "\n")


def main() -> None:
    """Do jobs until stdin ends."""
    AppriseSink("apprise", "json://localhost")  # it imports a hundred modules: once, before the processes are forked
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
        _die_at(owner or CLASSES[job["sink"]], name.format(kind=job["kind"]), when)
    os.environ["PAGER_FILE"] = job["pager_file"]
    settings = load_settings(job["settings"], {})
    store = open_store(job["store"])
    now = datetime.fromisoformat(job["now"])
    service = AlertService(
        store,
        build_sinks(settings),
        settings.alerts,
        lease=StoreLease(store, f"poster-{os.getpid()}"),
    )
    until = time.monotonic() + _MOST
    while time.monotonic() < until:
        report = service.run_once(now, flush=True)
        if not report.delivery.leading:
            time.sleep(0.02)  # another one posts: perhaps it is killed, too
            now += timedelta(seconds=10) if job["hurries"] else timedelta(0)
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
