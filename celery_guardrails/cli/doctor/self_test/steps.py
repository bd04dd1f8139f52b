"""The steps of a self-test: the canary is sent, fails, is dead-lettered, archived, requeued, and recovers.

Owns the steps, what each waits for, and what to look at when a step fails. It must not know how steps are shown.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from amqp.exceptions import AccessRefused

from celery_guardrails import clock
from celery_guardrails.cli.actor import whoever_runs_this
from celery_guardrails.cli.daemon.assembly import assembled
from celery_guardrails.cli.doctor.context import Context, StoreAway
from celery_guardrails.cli.doctor.finding import Finding, fault, fine
from celery_guardrails.cli.doctor.self_test.cleanup import REASON, Left
from celery_guardrails.cli.doctor.self_test.task import Journal, canary_queue, register_canary
from celery_guardrails.cli.doctor.self_test.worker import CanaryWorker
from celery_guardrails.command import celery_command
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.policy import schedule
from celery_guardrails.recovery import requeue as requeueing
from celery_guardrails.recovery import search
from celery_guardrails.store.filter import Query
from celery_guardrails.store.record import LetterSummary, State
from celery_guardrails.text import count_of
from celery_guardrails.transport.connection import opened
from celery_guardrails.transport.dead_letter import Replayer
from celery_guardrails.transport.right import refusal

__all__ = ["SelfTest", "Step"]

T = TypeVar("T")

_LOOK_EVERY = 0.1
_SHORT = 10.0
"""Seconds. Where the settings give the canary a longer first delay, the test does without a retry."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its finding, and the seconds that it took."""

    name: str
    finding: Finding
    seconds: float


class _StepFailed(Exception):
    """A step failed: what it waited for in vain, and what to look at."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found, fix)
        self.found = found
        self.fix = fix


class SelfTest:
    """One self-test.

    Args:
        context: the application, its broker and its archive.
        seconds: how long the steps together may take, without cleaning up.
        on_step: called with each step when it ends.
    """

    def __init__(self, context: Context, seconds: float, on_step: Callable[[Step], None]) -> None:
        self._context = context
        self._project = context.project
        self._on_step = on_step
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._queue = f"{SELF_TEST}.{uuid4().hex[:12]}"
        self._task_id = str(uuid4())
        self._left = Left(context, self._queue, self._task_id)
        self._see = f"see: {self._project.typed('doctor')}"
        self._worker: CanaryWorker | None = None
        self._journal = Journal(Path())
        self._letter: LetterSummary | None = None
        self._retried = self._guardian = False

    def run(self) -> bool:
        """Run the steps until one fails, then clean up. Returns whether all went well."""
        well = True
        with tempfile.TemporaryDirectory(prefix="guardrails-self-test-") as folder:
            try:
                for name, step in self._steps(Path(folder)):
                    if not self._run_step(name, step):
                        well = False
                        break
            finally:
                if self._worker is not None:
                    self._worker.stop()
                well = self._run_step("cleaned up", self._left.clean_up) and well
        return well

    def _steps(self, folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "prepared", self._prepare
        yield "worker", lambda: self._start(folder)
        yield "sent", self._send
        if self._retried:
            yield "failed", self._fail
        yield "dead-lettered", self._die
        yield "archived", self._archive
        yield "put back", self._requeue
        yield "succeeded", self._succeed
        yield "recovered", self._recover

    def _run_step(self, name: str, step: Callable[[], str]) -> bool:
        started = time.monotonic()
        try:
            finding = fine(step())
        except _StepFailed as exc:
            finding = fault(exc.found, exc.fix)
        except Exception as exc:  # noqa: BLE001 each broker has its own errors, and the test must clean up
            finding = fault(f"{type(exc).__name__}: {exc}", self._see)
        self._on_step(Step(name, finding, time.monotonic() - started))
        return not finding.fix

    def _prepare(self) -> str:
        context, app = self._context, self._context.app
        if context.transport == "memory":
            raise _StepFailed(
                "memory:// lives in one process, so no worker can take the canary", "set another broker_url"
            )
        if not context.settings.enabled:
            raise _StepFailed("enabled is False, so nothing is dead-lettered", "set enabled to True")
        queue = canary_queue(app, self._queue)
        planned = schedule(context.guardrails.policy_of(register_canary(app)).policy)
        self._retried = len(planned) > 1 and planned[1].latest.total_seconds() <= _SHORT
        try:
            with opened(app) as connection, connection.channel() as channel:
                queue(channel).declare()
        except AccessRefused as exc:
            fix = context.rights_fix(declare=False)
            raise _StepFailed(f"the canary needs a queue of its own: {refusal(exc)}", fix) from exc
        self._left.declared = True
        try:
            self._guardian = bool(context.guardians_alive)
        except StoreAway:
            self._guardian = False
        return f"its own queue: {self._queue}"

    def _start(self, folder: Path) -> str:
        self._worker = CanaryWorker(shlex.split(self._project.name)[0], self._queue, folder)
        self._journal = Journal(self._worker.journal_path)
        try_it = f"start a worker by hand and read its log: {celery_command(self._project.name, 'worker')}"
        self._await(lambda: self._journal.find("ready"), "the worker did not start", try_it)
        return "a worker of this application consumes this queue"

    def _send(self) -> str:
        task = self._context.app.tasks[SELF_TEST]
        self._left.sent = True
        task.apply_async(kwargs={"retry": self._retried}, task_id=self._task_id, queue=self._queue, ignore_result=True)
        return f"{SELF_TEST}[{self._task_id}]"

    def _fail(self) -> str:
        waiting = self._context.guardrails.waiting
        look = "look at where retries wait: the check named waiting"
        self._await(lambda: self._journal.find("attempt", retries=0), "the canary never ran", self._see)
        self._await(lambda: self._journal.find("attempt", retries=1), "the canary failed, but never ran again", look)
        return f"the first attempt, then the second, after a wait of 1 s by {waiting.name}"

    def _die(self) -> str:
        self._await(
            lambda: self._journal.find("attempt", generation=0, retries=int(self._retried)),
            "the canary never ran", self._see,
        )  # fmt: skip
        self._await(lambda: self._died(), "the canary failed, but its worker did not dead-letter it", self._see)
        assert self._worker is not None
        if "is spooled to" in self._worker.log():
            words = "the broker did not take the dead letter, so it is spooled"
            raise _StepFailed(words, "look at dead_letter.queue_arguments and the rights of this user")
        return f"published to {self._context.settings.dead_letter.queue}, confirmed"

    def _died(self) -> bool:
        ended = [self._journal.find("ended", generation=0, state=state) for state in ("FAILURE", "IGNORED")]
        return any(ended)

    def _archive(self) -> str:
        by = "the guardian that runs"
        if not self._guardian:
            by = f"this command, because no guardian runs ({self._archive_here()})"
        look = "does the guardian use this broker, this dead_letter.queue and this store.url? See its log"
        self._letter = self._left.letter = self._await(self._find, "the dead letter is not in the archive", look)
        return f"dead letter {self._letter.id}, by {by}"

    def _archive_here(self) -> str:
        with assembled(self._project, once=True) as assembly:
            report = assembly.guardian.run_once()
        return f"it archived {count_of(report.archived, 'dead letter')}"

    def _find(self) -> LetterSummary | None:
        page = search.search(self._project.archive, Query().with_term("task", SELF_TEST), 100)
        return next((letter for letter in page.letters if letter.task_id == self._task_id), None)

    def _requeue(self) -> str:
        assert self._letter is not None
        replayer = Replayer(self._context.app, self._project.publisher)
        actor = whoever_runs_this()
        done = requeueing.requeue(self._project.archive, replayer, self._letter.id, actor, REASON, clock.now())
        return f"into {done.queue}, by {actor}, with the reason {REASON!r}"

    def _succeed(self) -> str:
        self._await(
            lambda: self._journal.find("ended", generation=1, state="SUCCESS"),
            "the canary was requeued, but did not succeed", self._see,
        )  # fmt: skip
        return "it ran again as requeued work, and succeeded"

    def _recover(self) -> str:
        if not self._guardian:
            self._archive_here()
        look = "the guardian does not confirm recoveries: see its log"
        self._await(self._recovered, "its success is not in the archive", look)
        return "its letter in the archive is recovered"

    def _recovered(self) -> bool:
        found = self._find()
        return found is not None and found.state is State.RECOVERED

    def _await(self, condition: Callable[[], T | None], words: str, fix: str) -> T:
        """Wait until the condition gives something, and return this.

        Raises:
            _StepFailed: the time is up, or the canary's worker has ended.
        """
        while True:
            ended = self._worker.ended if self._worker is not None else None
            if found := condition():
                return found
            if self._worker is not None and ended is not None:
                raise _StepFailed(f"{words}: its worker ended ({ended}): {self._worker.last_words()}", fix)
            if time.monotonic() >= self._until:
                raise _StepFailed(f"{words} within {self._seconds:.0f} seconds", fix)
            time.sleep(_LOOK_EVERY)
