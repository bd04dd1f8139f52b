"""A worker without one seam, in a process of its own: what it logged, what it ran, and how it ended.

`python -m tests.seam.worker` reads lines of JSON, `{"seam": NAME, "renamed": BOOL}`, to their end, and answers each
with one. The Celery family is loaded once, and each worker is a fork, which imports what uses it of celery_guardrails
anew.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.seam.renamed import load, rename

_APART = ("alerts.group", "letters.record", "policy", "redaction", "settings")
"""What of celery_guardrails knows nothing of Celery, which a linter holds: it may be there before a name is gone."""
BOUND = 60.0
"""Seconds that one worker may take."""


def main() -> None:
    """Answer until nobody asks."""
    load()
    for module in _APART:
        importlib.import_module(f"celery_guardrails.{module}")
    gc.freeze()
    asked = [json.loads(line) for line in sys.stdin]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for answer in pool.map(_forked, asked):
            sys.stdout.write(f"{answer}\n")


def _forked(asked: dict[str, Any]) -> str:
    """One worker in a fork of this process; gives what it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(asked, writing)
    os.close(writing)
    with os.fdopen(reading) as answer:
        told = answer.read()
    os.waitpid(pid, 0)
    return told or json.dumps({"error": "the process ended without a word"})


def _child(asked: dict[str, Any], writing: int) -> None:
    outcome: dict[str, Any] = {"warnings": [], "ran": [], "error": None, "letters": 0}
    done = threading.Event()

    def tell() -> None:
        with os.fdopen(writing, "w") as answer:
            json.dump(outcome, answer)
        os._exit(0)

    def watch() -> None:
        if not done.wait(BOUND):
            outcome["error"] = f"it took more than {BOUND:g} s; it ran {outcome['ran']}"
        tell()

    os.dup2(2, 1)  # what a worker prints is no answer
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        _lack(asked["seam"], asked["renamed"])
        _work(outcome, done)
    except BaseException as exc:  # noqa: BLE001 told, whatever it is
        outcome["error"] = f"{type(exc).__name__}: {exc}"
        traceback.print_exc()
    done.set()
    watching.join()


def _lack(seam: str, renamed: bool) -> None:
    """Be without a seam: by a Celery that has another name for it, else by a look that does not find it."""
    if renamed:
        rename(seam.replace(":", ".").rpartition(".")[2])
        return
    from celery_guardrails import seams

    found = seams.problem_of
    seams.problem_of = lambda each: "is gone" if each.name == seam else found(each)


class _Warnings(logging.Handler):
    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "celery_guardrails.attempt":  # which has a line of each attempt
            self._kept.append(record.getMessage())


def _work(outcome: dict[str, Any], done: threading.Event) -> None:
    """Run a worker of the pool `solo` on a broker in memory: a task that succeeds, and one that fails for good."""
    logging.getLogger("celery_guardrails").addHandler(_Warnings(outcome["warnings"]))
    from celery import Celery

    from celery_guardrails import GuardedTask, Policy

    app = Celery("seams", broker="memory://", backend="cache+memory://")
    app.conf.update(
        broker_transport_options={"polling_interval": 0.01},
        worker_hijack_root_logger=False,
        task_default_queue="seams",
        guardrails={"dead_letter": {"queue": "seams.dead", "spool_dir": tempfile.mkdtemp()}},
    )

    @app.task(base=GuardedTask, name="seams.good", shared=False)
    def good() -> None:
        outcome["ran"].append("good")

    @app.task(base=GuardedTask, name="seams.bad", policy=Policy(max_attempts=1), shared=False)
    def bad() -> None:
        outcome["ran"].append("bad")
        raise ValueError("for good")

    bad.delay()
    good.delay()
    threading.Thread(target=_wait, args=(app, outcome, done), daemon=True).start()
    worker = app.Worker(pool="solo", concurrency=1, without_mingle=True, without_gossip=True, without_heartbeat=True)
    worker.start()


def _wait(app: Any, outcome: dict[str, Any], done: threading.Event) -> None:
    """Wait for both tasks and for the letter of the one that failed."""
    ends = time.monotonic() + BOUND / 2
    while time.monotonic() < ends and not (len(outcome["ran"]) == 2 and outcome["letters"]):
        with app.connection_for_read() as connection:
            from celery_guardrails.transport.depth import depth

            outcome["letters"] = depth(connection, "seams.dead") or 0
        time.sleep(0.02)
    done.set()


if __name__ == "__main__":
    main()
