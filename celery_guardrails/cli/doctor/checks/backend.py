"""Whether the result backend answers: while it does not, Celery reports a failed task nowhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from celery.backends.base import DisabledBackend

from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine

__all__ = ["answers"]

_BOUND = 5.0
_PROBE = "celery-guardrails-doctor"


def answers(context: Context) -> Iterator[Finding]:
    """Ask it for a result that nobody has stored, for five seconds at most."""
    fix = "start it, correct result_backend, or set task_ignore_result = True"
    try:
        backend = context.app.backend
    except Exception as exc:  # noqa: BLE001 an unknown scheme, a missing driver
        kind = str(context.conf.result_backend).partition("://")[0]
        yield fault(f"the result backend {kind}:// cannot be used: {type(exc).__name__}: {exc}", fix)
        return
    if isinstance(backend, DisabledBackend):
        yield fine("no result backend is set: results are not kept")
        return
    where = _shown(backend)
    problem = _ask(backend)
    yield fine(f"{where} answers") if problem is None else fault(f"{where} does not answer: {problem}", fix)


def _ask(backend: object) -> str | None:
    """What is wrong with the backend; `None`: nothing. Asks in a thread, because a backend may try again for long."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            backend.get_task_meta(_PROBE, cache=False)  # type: ignore[attr-defined]
            outcome.append(None)
        except Exception as exc:  # noqa: BLE001 each backend has errors of its own
            outcome.append(f"{type(exc).__name__}: {exc}")

    thread = threading.Thread(target=ask, name="doctor-backend", daemon=True)
    thread.start()
    thread.join(_BOUND)
    return outcome[0] if outcome else f"no answer within {_BOUND:.0f} seconds"


def _shown(backend: object) -> str:
    try:
        return str(backend.as_uri())  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 some backends have no address
        return type(backend).__name__
