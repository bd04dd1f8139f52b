"""`map`, `starmap` and `chunks` of a guarded task: one message that runs it for many items, under its policy.

Celery sends such work as one of its own tasks (`celery.starmap`, ...), which names the inner task in its arguments.
Owns the step from such a message to its carrier: Celery's task with the inner task's policy, acknowledgement and
expected errors. Where the inner task is not under guard, Celery's own task runs the message.

    message ── strategy (main process) ──> carrier's request      body ── tracer (the process that runs it) ──> carrier
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery, _state

from celery_guardrails.app.carried import carried_name, carriers
from celery_guardrails.app.guardrails import BUILT_IN, Guardrails
from celery_guardrails.app.in_force import is_guarded, subject_of
from celery_guardrails.app.lazy_body import LAZY, unrun_failure
from celery_guardrails.seams import CARRIERS as CARRIED
from celery_guardrails.seams import holds
from celery_guardrails.task.guarded import GuardMixin, install_call

__all__ = ["install_carriers"]

logger = logging.getLogger("celery_guardrails.worker")

_STRATEGY = "celery_guardrails.worker.consumer.strategy:strategy"


class _Carrier(GuardMixin):
    """One of Celery's tasks as it runs for one inner task. `_carrier_of` makes it; it is not in the registry."""

    _guardrails_carries: Any
    # max_crashes bounds the lost workers
    reject_on_worker_lost = False
    retry_on_worker_lost = False

    @property
    def acks_late(self) -> bool:
        """The inner task's `acks_late`."""
        return bool(self._guardrails_carries.acks_late)

    @property
    def throws(self) -> Any:
        """The errors that the inner task expects."""
        return self._guardrails_carries.throws


class _Carries:
    """What is mixed into Celery's registered task: it calls the carrier, where there is one."""

    Strategy = _STRATEGY

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top  # type: ignore[attr-defined]
        # in a worker, the tracer runs the carrier already; eager mode comes here
        carrier = None if request is None or request.called_directly else _carrier_of(self, args, kwargs)
        if carrier is None:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        _state._task_stack.push(carrier)
        try:
            return carrier(*args, **kwargs)
        finally:
            _state._task_stack.pop()

    def guardrails_carrier(self, args: Any, kwargs: Any) -> Any:
        """The carrier of a message with these arguments, or `None`; `app/carried.py` calls this."""
        return _carrier_of(self, args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Publish as the inner task is published: with our header; a delayed message waits outside the workers."""
        carrier = _carrier_of(self, args, kwargs)
        send = super().apply_async if carrier is None else carrier.apply_async  # type: ignore[misc]
        return send(args, kwargs, *rest, **options)


def install_carriers(app: Celery) -> None:
    """Make an application's `map`, `starmap` and `chunks` call their carriers. A second call changes nothing."""
    for task in carriers(app):
        cls = type(task)
        if not issubclass(cls, _Carries):
            attributes = {"__module__": cls.__module__, "__doc__": cls.__doc__}
            task.__class__ = type(cls.__name__, (_Carries, cls), attributes)


def _carrier_of(task: Any, args: Any, kwargs: Any) -> Any:
    """The carrier that runs a message; `None`: Celery's own task runs it. Never raises."""
    try:
        if not holds(CARRIED):
            return None
        inner = task.app.tasks.get(carried_name(task.name, args, kwargs))
        if inner is None or not is_guarded(inner) or BUILT_IN.match(inner.name):
            return None
        guard = Guardrails.of(task.app)
        if not guard.settings.enabled:
            return None
        made = guard.carriers.get((task.name, inner.name))
        if made is None or made._guardrails_carries is not inner:
            made = guard.carriers[task.name, inner.name] = _make_carrier(task, inner)
        return made
    except Exception:
        logger.warning("guardrails failed on a message of %s: Celery runs it unguarded", task.name, exc_info=True)
        return None


def _make_carrier(task: Any, inner: Any) -> Any:
    cls = next(base for base in type(task).__mro__ if base is not _Carries and not issubclass(base, _Carries))
    made: Any = type(cls.__name__, (_Carrier, cls), {"__module__": cls.__module__, "_guardrails_carries": inner})
    install_call(made)
    Guardrails.of(task.app).take_charge(inner)  # here: this process may never start a worker
    carrier = made.__new__(made)
    vars(carrier).update({key: value for key, value in vars(task).items() if key != "__trace__"})
    carrier.run = partial(_run_items, carrier, carrier.run)
    return carrier


def _run_items(carrier: Any, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run the inner task for each item. If the body of one item did not run, the whole message fails."""
    results = run(*args, **kwargs)
    if type(results) is list and not carrier.request.is_eager:
        unrun = [found for one in results if type(one) in LAZY and (found := unrun_failure(subject_of(carrier), one))]
        if unrun:
            raise unrun[0]
    return results
