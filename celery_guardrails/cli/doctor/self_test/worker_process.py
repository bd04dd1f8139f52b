"""A worker of the application for the canary alone: `python -m ...self_test.worker_process APP QUEUE JOURNAL PARENT`.

It is Celery's own `worker` command with the application's settings. Only settings that would disturb the application's
other workers or make noise are changed: no remote control, no events, no state file, no Sentry.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery import signals

from celery_guardrails.cli.doctor.self_test.task import Journal, canary_queue, generation_of, register_canary
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.worker.failure.sentry import sentry_of_application

__all__ = ["main"]

_QUIET = {
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_state_db": None,
    "worker_prefetch_multiplier": 1,
}
_FOLLOW_EVERY, _PATIENCE = 1.0, 10.0
_OPTIONS = ("--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING")


def main(arguments: list[str]) -> None:
    """Run the worker until it is stopped."""
    name, queue, path, parent = arguments
    journal = Journal(Path(path))
    # before the worker starts: a command that is killed meanwhile cannot stop it either
    threading.Thread(target=_follow, args=(int(parent),), daemon=True).start()

    def prepare(instance: Any = None, **_: Any) -> None:
        app = instance.app
        app.conf.update(_QUIET)
        canary_queue(app, queue)
        register_canary(app, journal)
        _silence_sentry()

    def ready(**_: Any) -> None:
        journal.note("ready")

    def ended(sender: Any = None, task: Any = None, state: str = "", **_: Any) -> None:
        if task is not None and task.name == SELF_TEST:
            journal.note("ended", generation=generation_of(task.request), state=state)

    signals.celeryd_init.connect(prepare, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.task_postrun.connect(ended, weak=False)
    sys.argv = ["celery", "-A", name, "worker", "-Q", queue, "-n", f"{queue}@%h", *_OPTIONS]
    from celery.__main__ import main as celery

    celery()


def _follow(parent: int) -> None:
    """End this worker when its command has ended: a command that is killed cannot stop its worker."""
    while os.getppid() == parent:
        time.sleep(_FOLLOW_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


def _silence_sentry() -> None:
    """Send no event for the canary's death. An empty DSN is Sentry's own way to be off."""
    sdk = sentry_of_application()
    if sdk is not None:
        sdk.init(dsn="", default_integrations=False)


if __name__ == "__main__":
    main(sys.argv[1:])
