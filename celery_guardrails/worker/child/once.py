"""A task's body between the two questions to the ledger: may this run do the work, and what came of it?

    key ──> begin ──> Begun:    the body runs; then done (success), held (its next attempt comes) or free (it failed)
                  ──> Done:     the first run's result, and the body does not run
                  ──> Running:  the message waits outside the workers, or ends (`while_running="drop"`)
                  ──> Differs:  a dead letter: the key belongs to other work

Owns that order in the process that runs the task. What ends a run from outside (a killed process, a time limit) is
freed by the main process (`worker/main/lease.py`), which also renews the leases. A ledger that fails after the body
changes nothing of the task's outcome.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import states
from celery.exceptions import Ignore, Retry, TaskPredicate
from kombu.serialization import dumps, loads, prepare_accept_content
from kombu.utils.imports import symbol_by_name

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import LeaseLost, LedgerError
from celery_guardrails.idempotency.key import UnusableKey
from celery_guardrails.idempotency.ledger import Begun, Differs, Done, Kept, Key, Ledger, Result, Run, Running, State
from celery_guardrails.idempotency.memory import MemoryLedger
from celery_guardrails.letters.header import read_header
from celery_guardrails.policy import Idempotency
from celery_guardrails.policy.decision import DeadLetter, Reason
from celery_guardrails.worker.child.body import Failed, act_once, report_recovery, settle_decided, settle_put_off
from celery_guardrails.worker.failure.once import idempotency_of, key_of, run_of

__all__ = ["Claim", "claim_of", "run_once"]

logger = logging.getLogger("celery_guardrails.worker")

_CLAIM = "_guardrails_claim"
_SQL_LEDGER = "celery_guardrails.store.ledger:SqlLedger"
_IN_TRANSACTION = "celery_guardrails.store.ledger:finish_in"
_PATIENCE = 10.0
"""Seconds for which a run tries to tell the ledger that its work is done."""
_PAUSE = 0.5


@dataclass(slots=True)
class Claim:
    """The right of a run to do some work, from the ledger."""

    ledger: Ledger
    idempotency: Idempotency
    key: Key
    run: Run
    fence: int
    keep: Callable[[Claim, Any], Result]
    is_finished: bool = False
    given: Result | None = None
    """The result that the body has given, until the work is noted as done."""

    def finish_in(self, transaction: Any, result: Any = None) -> None:
        """Note in a transaction of yours that the work is done: exactly if it is committed.

        A message that comes again then ends with `result`, without running. If the transaction is rolled back, the work
        is not done. With a ledger in memory, as in eager mode, the end of the body notes it.

        Args:
            transaction: a SQLAlchemy session or connection, or an alias of Django's `DATABASES` within `atomic`. It has
                to be in the ledger's own database (the setting `idempotency.url`; without it, the archive's).
            result: what a later message with the same key gets. Default `None`.

        Raises:
            LeaseLost: another run has taken the work over. Let it leave the body: the transaction must not be
                committed, and the task waits for the other one's result.
            LedgerError: the ledger is in no database, or in another one than the transaction.
        """
        if isinstance(self.ledger, MemoryLedger):
            # tests of an application: no transaction can hold the note, so the end of the body does
            self.given = self.keep(self, result)
            return
        if not isinstance(self.ledger, _sql_ledger()):
            words = "finish_in needs a ledger in the database of your data: set idempotency.url to it"
            raise LedgerError(self.ledger.name, words)
        note: Callable[..., bool] = symbol_by_name(_IN_TRANSACTION)
        kept = self.keep(self, result)
        if not note(transaction, self.key, self.run.owner, kept, self.idempotency.ttl):
            entry = self.ledger.entry(self.key)
            if entry is not None and entry.fence == self.fence and entry.state is State.RUNNING:
                words = "finish_in was given a transaction in another database; idempotency.url has to be the same one"
                raise LedgerError(self.ledger.name, words)
            raise LeaseLost(self.key.text, self.fence)
        self.is_finished = True


def _sql_ledger() -> type:
    found: type = symbol_by_name(_SQL_LEDGER)
    return found


def claim_of(request: Any) -> Claim | None:
    """The claim under which a task's body runs; `None`: it has none."""
    found: Claim | None = request.__dict__.get(_CLAIM)
    return found


def run_once(task: Any, request: Any, args: Any, kwargs: Any, body: Callable[[], Any]) -> Any:
    """Run a task's body if the ledger lets it; returns its result, or the first run's, or a `Failed`.

    Args:
        task, request: the task and its request.
        args, kwargs: its arguments.
        body: runs the body and settles its failure.
    """
    header = read_header(request.__dict__)
    idempotency = idempotency_of(task)
    try:
        key, arguments = key_of(task, str(request.id), header, args, kwargs)
    except UnusableKey as exc:
        return settle_decided(task, request, exc, DeadLetter(Reason.REJECTED, str(exc)))
    guard, run = Guardrails.of(task.app), run_of(task, request.__dict__, header)
    try:
        ledger = guard.ledger(eager=bool(request.is_eager))
        answer = ledger.begin(key, run, arguments, idempotency.lease)
    except LedgerError as exc:
        if idempotency.when_ledger_is_down == "run":
            logger.warning("%s[%s] runs unprotected: %s", task.name, request.id, exc)
            return body()
        return settle_put_off(task, request, str(exc))
    if isinstance(answer, Begun):
        keep = partial(_kept, task, request)
        request.__dict__[_CLAIM] = claim = Claim(ledger, idempotency, key, run, answer.fence, keep)
        return _run(task, request, claim, body)
    if isinstance(answer, Differs):
        text = f"its idempotency key {key.text!r} belongs to {answer.task_id}, which has other arguments"
        return settle_decided(task, request, UnusableKey(text), DeadLetter(Reason.REJECTED, text))
    if isinstance(answer, Running) and idempotency.while_running == "wait":
        return settle_put_off(task, request, f"the same work ({key.text}) is being done as {answer.task_id}")
    return _duplicate(task, request, idempotency, key, answer)


def _run(task: Any, request: Any, claim: Claim, body: Callable[[], Any]) -> Any:
    try:
        result = body()
    except TaskPredicate as signal:
        if isinstance(signal, Ignore):
            act_once(partial(_finish, task, request, claim, Result()))
        else:
            act_once(partial(_let_go, task, request, claim, signal))
        raise
    except Exception as exc:  # an eager run raises its failure
        _let_go(task, request, claim, exc)
        raise
    if type(result) is Failed:
        act_once(partial(_let_go, task, request, claim, result.outcome))
        return result
    if not claim.is_finished:
        # a soft time limit that comes now must not make a failure of work that is done
        act_once(lambda: _finish(task, request, claim, claim.given or claim.keep(claim, result)))
    return result


def _let_go(task: Any, request: Any, claim: Claim, outcome: BaseException) -> None:
    """Keep the key for the next attempt of this work, or free it: the work has failed."""
    try:
        if isinstance(outcome, Retry):
            claim.ledger.hold(claim.run.owner, claim.idempotency.ttl.total_seconds())
        else:
            claim.ledger.free(claim.run.owner)
    except LedgerError as exc:
        logger.warning("the key of %s[%s] is free when its lease is over: %s", task.name, request.id, exc)


def _finish(task: Any, request: Any, claim: Claim, result: Result) -> None:
    if claim.is_finished:
        return  # by the task's own transaction, which may not be committed yet: nobody may wait for its row
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            kept = claim.ledger.finish(claim.key, claim.run.owner, result, claim.idempotency.ttl)
            break
        except LedgerError as exc:
            if time.monotonic() >= until:
                words = "%s[%s] is done, but the ledger does not know it: a message with the same key would run (%s)"
                logger.error(words, task.name, request.id, exc)
                return
            time.sleep(_PAUSE)
    if not kept:
        words = "%s[%s] is done, but another run has taken its work over meanwhile: it may have been done twice"
        logger.error(words, task.name, request.id)


def _kept(task: Any, request: Any, claim: Claim, result: Any) -> Result:
    """The result as the ledger keeps it."""
    if result is None:
        return Result()
    lost = Result(Kept.BACKEND) if _is_stored(task, request) else Result(Kept.LOST)
    try:
        content_type, encoding, body = dumps(result, serializer=task.app.conf.result_serializer)
    except Exception:  # noqa: BLE001 Celery fails on it, too, and says so
        return Result(Kept.LOST)
    raw = body.encode() if isinstance(body, str) else bytes(body)
    return Result(Kept.HERE, raw, f"{content_type} {encoding}") if len(raw) <= claim.idempotency.keep_result else lost


def _is_stored(task: Any, request: Any) -> bool:
    disabled = task.ignore_result or request.ignore_result or request.is_eager
    return not disabled and not task.backend.__class__.__name__.startswith("Disabled")


def _duplicate(task: Any, request: Any, idempotency: Idempotency, key: Key, answer: Done | Running) -> Any:
    """End a message whose work somebody else does or has done."""
    name = f"{task.name}[{request.id}]"
    if isinstance(answer, Done):
        at = answer.at.isoformat(timespec="seconds")
        logger.info("%s does not run: the same work (%s) is done since %s as %s", name, key.text, at, answer.task_id)
    else:
        logger.info("%s does not run: the same work (%s) is being done as %s", name, key.text, answer.task_id)
    if isinstance(answer, Done):
        report_recovery(task, request)
    if idempotency.on_duplicate == "ignore":
        raise Ignore
    return _result(task, name, answer) if isinstance(answer, Done) else None


def _result(task: Any, name: str, done: Done) -> Any:
    kept = done.result
    if kept.kept is Kept.NONE:
        return None
    try:
        if kept.kept is Kept.HERE:
            content_type, _, encoding = kept.content_type.partition(" ")
            accepted = task.app.conf.result_accept_content or task.app.conf.accept_content
            return loads(kept.body, content_type, encoding, accept=prepare_accept_content(accepted))
        if kept.kept is Kept.BACKEND:
            found = task.AsyncResult(done.task_id)
            if found.state == states.SUCCESS:
                return found.result
    except Exception:
        logger.warning("%s ends without the first one's result", name, exc_info=True)
        return None
    logger.warning("%s ends without the first one's result, which was too large for the ledger (keep_result)", name)
    return None
