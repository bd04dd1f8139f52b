"""`GuardedTask`: the base class that an application swaps in.

Owns the seams to Celery: publishing (our header), running (`__call__`), `retry()` and installation. This file only
calls `worker/child/body.py`, which acts after a failure. A task that succeeds pays next to nothing here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from time import time
from typing import Any, ClassVar

from celery import Celery, Task
from celery.exceptions import Ignore, Retry, TaskPredicate

from celery_guardrails.app.guardrails import BUILT_IN, Guardrails, is_plain
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.app.lazy_body import LAZY, unrun_failure
from celery_guardrails.app.own_option import OWN_ACKS, own_acks_late
from celery_guardrails.app.request_class import OURS, RequestClass, install_request
from celery_guardrails.letters.header import HEADER, KEY, LONGEST_KEY, SPAN, VERSION
from celery_guardrails.letters.replay import BROKER_HEADERS
from celery_guardrails.letters.work import new_token
from celery_guardrails.policy import Policy
from celery_guardrails.task.delayed import apply_timed, return_to_queue
from celery_guardrails.task.on_commit import install_on_commit
from celery_guardrails.transport.routing import ROUTE
from celery_guardrails.worker.child.body import Failed, report_recovery, settle_attempt
from celery_guardrails.worker.child.exits import is_of_body
from celery_guardrails.worker.child.once import Claim, claim_of, run_once
from celery_guardrails.worker.child.retry_call import RetryCall, is_unpublished, retry_as_raised, retry_by_hand
from celery_guardrails.worker.failure.failed_run import STARTED
from celery_guardrails.worker.failure.once import guarded_once
from celery_guardrails.worker.failure.sent_repr import described_by, kept_reprs
from celery_guardrails.worker.failure.tracing import link_to

logger = logging.getLogger("celery_guardrails.worker")

__all__ = ["GuardMixin", "GuardedTask", "install_call"]

_INSIDE = "_guardrails_inside"
_TIMED = frozenset(("countdown", "eta", "expires"))
# headers that describe a delivery, not the work: left out when a task hands its headers on
_PAST = frozenset((*BROKER_HEADERS, ROUTE))
_POSITIONAL = ("task_id", "producer", "link", "link_error", "shadow")
"""Celery's `apply_async` takes these by position, too."""


class GuardMixin:
    """What makes a task guarded. `GuardedTask` is this on Celery's `Task`; mix it into a task class of your own."""

    policy: ClassVar[Policy | None] = None
    """What the class declares. Fields that it leaves out come from its base classes, then from the settings."""

    Request = RequestClass(OURS)

    _guardrails_guarded = True
    _guardrails_once: Any = None
    request_stack: Any
    run: Callable[..., Any]
    name: str
    app: Celery
    expires: Any

    @classmethod
    def bind(cls, app: Celery) -> Any:
        """Called by Celery; notes whether the task sets `acks_late` itself, before Celery fills in its default."""
        if OWN_ACKS not in vars(cls):  # Celery binds twice
            setattr(cls, OWN_ACKS, own_acks_late(cls))
        return super().bind(app)  # type: ignore[misc]

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called by Celery when the task gets its application: installs guardrails there, once."""
        super().on_bound(app)  # type: ignore[misc]
        Guardrails.of(app)
        install_call(cls)
        install_request(cls)
        install_on_commit(cls, app)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        if request is None or request._protected or request.called_directly:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        # As in Celery's own protected __call__: if the body calls this task again, the inner call is a plain one.
        request._protected = 1
        if _INSIDE in request.__dict__:
            return self.run(*args, **kwargs)
        result = _run(self, request, self.run, args, kwargs)
        if type(result) is Failed:
            raise result.outcome
        return result

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Publish as Celery does, with a header that says when the work was first published.

        With a `countdown` or an `eta`, the task waits outside the workers where the broker offers a way, and the
        broker has confirmed the message when this returns. A task past its `expires` still reaches a worker, which
        dead-letters it; only with `on_expired="drop"` may RabbitMQ drop the message.

        With `idempotency_key`, a text of at most 512 bytes, a worker does the work that it names once: a second message
        with this key gets the first one's result (`Idempotency`).

        Raises:
            kombu.exceptions.OperationalError: the broker did not take the message.
            ValueError: the key is no text, empty or too long.
        """
        key = _own_key(options.pop("idempotency_key")) if options and "idempotency_key" in options else None
        timed = (options and not _TIMED.isdisjoint(options)) or self.expires is not None
        headers = options.get("headers")
        if not headers:
            options["headers"] = {HEADER: _first_header(rest, options, key)}
        else:
            # a task may hand its headers on to another task, which must not inherit the history in them
            header = _kept_header(self, headers, options) or _first_header(rest, options, key)
            options["headers"] = {key: value for key, value in headers.items() if key not in _PAST} | {HEADER: header}
            if "redelivered" in options:
                return_to_queue(self.app, options)
        if not timed:
            return super().apply_async(args, kwargs, *rest, **options)  # type: ignore[misc]
        options.update(zip(_POSITIONAL, rest, strict=False))
        return apply_timed(self, options, partial(super().apply_async, args, kwargs))  # type: ignore[misc]

    @property
    def idempotency(self) -> Claim:
        """Within the body: the right to do this work, with its `key` and its `fence`.

        Raises:
            RuntimeError: the task's work is not idempotent, or runs unprotected because the ledger is down.
        """
        claim = claim_of(self.request)  # type: ignore[attr-defined]
        if claim is None:
            raise RuntimeError(
                f"{self.name} runs without a key: it has no Policy(idempotency=...), or its ledger is down"
            )
        return claim

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, queue: Any = None, **options: Any
    ) -> Any:
        """As Celery's, for a retry. Keeps the sender's `argsrepr` and `kwargsrepr`, so what they hide stays hidden."""
        request = self.request if request is None else request  # type: ignore[attr-defined]
        try:
            kept = {} if is_plain(self) else kept_reprs(self.app, request, args, kwargs)
        except Exception:
            logger.warning("a retry of %s does not keep argsrepr and kwargsrepr", self.name, exc_info=True)
            kept = {}
        return super().signature_from_request(request, args, kwargs, queue, **{**kept, **options})  # type: ignore[misc]

    def apply(self, *args: Any, **options: Any) -> Any:
        """As Celery's. It first puts the policy in force, because this process may never start a worker."""
        Guardrails.of(self.app).take_charge(self)
        return super().apply(*args, **options)  # type: ignore[misc]

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Retry the task by hand, within its policy.

        An explicit `countdown` (seconds) or `eta` is honoured within the policy's attempts and deadline. Without
        one the policy's backoff decides; where no policy of the task sets a backoff, `default_retry_delay` is the
        backoff if the task sets it. `max_retries` holds for this call, as in Celery: it wins over the task's option
        of that name and over the settings' default policy, but can only lower a `max_attempts` that a policy of this
        task declares. When no attempt is left, this raises `exc` (or `MaxRetriesExceededError`), as Celery does; if
        that exception leaves the task, the work is dead-lettered.

        Raises:
            celery.exceptions.Retry: another attempt was scheduled, and `throw` is true.
        """

        def celery_retry(**changed: Any) -> Retry:
            if options.get("headers") and HEADER in changed.get("headers", ()):
                # as in Celery, the caller's headers replace the request's
                changed["headers"] = {**options["headers"], HEADER: changed["headers"][HEADER]}
            given = {
                "args": args, "kwargs": kwargs, "exc": exc, "throw": throw, "eta": eta, "countdown": countdown,
                "max_retries": max_retries, **options, **changed,
            }  # fmt: skip
            return super(GuardMixin, self).retry(**given)  # type: ignore[misc]

        altered = args is not None or kwargs is not None or bool(options)
        call = RetryCall(celery_retry, exc, throw, eta, countdown, max_retries, altered)
        return retry_by_hand(self, call)


class GuardedTask(GuardMixin, Task):  # type: ignore[misc]
    """A Celery task under guard: swap it in as base class and declare a `Policy`.

    Use it as `@app.task(base=GuardedTask, policy=Policy(...))`, subclass it with a `policy` attribute, or guard a
    whole application with `Celery(..., task_cls=GuardedTask)`. Celery's own tasks (`celery.*`) stay as they are.
    """

    abstract = True


def _own_key(key: object) -> str:
    """The key that the sender of a task gives; a wrong one is refused before anything is sent."""
    if not isinstance(key, str) or not key:
        raise ValueError(f"idempotency_key is {'empty' if key == '' else type(key).__name__}: give a text")
    size = len(key.encode())
    if size > LONGEST_KEY:
        raise ValueError(f"idempotency_key has {size} bytes, {LONGEST_KEY} is the most")
    return key


def _first_header(rest: Sequence[Any], options: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    """The header of a first publish: new work, even if other work has the same task id."""
    header: dict[str, Any] = {"v": VERSION, "published_at": round(time(), 3), "work": new_token()}
    if options.get("task_id") or (rest and rest[0]):
        header["given"] = True
    if "argsrepr" in options or "kwargsrepr" in options:
        header["described"] = described_by(options)
    if key is not None:
        header[KEY] = key
    return header


def _kept_header(task: Any, headers: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The header that a retry keeps when Celery publishes it; `None`: the message is new work.

    A task that publishes itself again with its own request's options, but not as its next attempt, makes new work.
    """
    retries = options.get("retries")
    if not retries:
        return None
    running = task.request_stack.top
    if running is None or running.id != options.get("task_id"):
        return headers.get(HEADER)
    if retries <= (running.retries or 0):
        return None
    return headers.get(HEADER) or running.__dict__.get(HEADER)


def install_call(cls: type) -> None:
    """Make our `__call__` the outermost one of a task class.

    Where no other class defines `__call__`, there is nothing to do. Where a class does (for Flask's application
    context, for example), our `__call__` calls it, so that its failures count, too.
    """
    if BUILT_IN.match(str(getattr(subject_of(cls), "name", None) or "")):
        return
    definers = [base for base in cls.__mro__ if "__call__" in base.__dict__ and base not in (Task, object)]
    outer = definers[0] if definers else None
    if definers == [GuardMixin] or outer is None or getattr(outer.__dict__["__call__"], "_guardrails", False):
        return
    inner = definers[1] if outer is GuardMixin else outer
    if inner.__module__.startswith("celery.") and outer is GuardMixin:
        return
    original: Callable[..., Any] = inner.__dict__["__call__"]

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        if request is None or request._protected or request.called_directly or _INSIDE in request.__dict__:
            return original(self, *args, **kwargs)
        request.__dict__[_INSIDE] = True

        result = _run(self, request, partial(original, self), args, kwargs)
        if type(result) is Failed:
            raise result.outcome
        return result

    __call__._guardrails = True  # type: ignore[attr-defined]
    cls.__call__ = __call__  # type: ignore[method-assign]


def _run(task: Any, request: Any, call: Callable[..., Any], args: Any, kwargs: Any, *, may_begin: bool = False) -> Any:
    """Run the body. Every guarded task comes this way, so the tasks that succeed pay for each line.

    The exception to raise is returned: Celery copies every frame between the `raise` and its tracer, at a tenth of a
    millisecond each, and a Retry that is raised outside the handler has no context, which would be copied, too.

    `may_begin`: the ledger was asked, if this work takes effect once.
    """
    fields = request.__dict__
    fields[STARTED] = time()
    header = fields.get(HEADER)
    if not may_begin and (
        task._guardrails_once is not None or (type(header) is dict and KEY in header) or request.is_eager
    ):
        run = partial(_run, task, request, call, args, kwargs, may_begin=True)
        return run_once(task, request, args, kwargs, run) if guarded_once(task, request) else run()
    if request.is_eager:
        return _run_eagerly(task, request, call, args, kwargs)
    try:
        if type(header) is dict and SPAN in header:
            link_to(header[SPAN])
        result = call(*args, **kwargs)
    except TaskPredicate as signal:
        if not is_unpublished(signal, task, request):
            # a replacement takes over, or it wants no outcome: as after a success, nobody waits for it
            if isinstance(signal, Ignore):
                report_recovery(task, request)
            raise
        return Failed(retry_as_raised(task, request, signal))
    except Exception as exc:  # noqa: BLE001 the one place that catches a task's failure
        return Failed(settle_attempt(task, request, exc))
    except BaseException as exc:
        if not is_of_body(exc, task, request):
            raise
        return Failed(settle_attempt(task, request, exc))
    if type(result) in LAZY and (unrun := unrun_failure(task, result)) is not None:
        return Failed(settle_attempt(task, request, unrun))
    if type(header) is dict and "dead_letter_id" in header:
        report_recovery(task, request)
    return result


def _run_eagerly(task: Any, request: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run one attempt in eager mode. If it ends with a Retry, Celery runs the next attempt, as in its own retries."""
    try:
        return call(*args, **kwargs)
    except TaskPredicate:
        raise
    except Exception as exc:
        outcome = settle_attempt(task, request, exc)
        if outcome is exc:
            raise
        raise outcome from None
