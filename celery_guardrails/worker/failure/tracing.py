"""What OpenTelemetry gets from us: links from attempt to attempt, facts on failed ones, the main process's own spans.

    an attempt runs, in a span of the application's instrumentation ──> a link to the span of the attempt before
    it fails ──> our facts on that span
    the end of an attempt that only the main process sees ──> a span of ours, in the trace of the message

Owns every use of OpenTelemetry's API. It does nothing where the application has not imported OpenTelemetry. It keeps no
tracer and no span from one call to the next, so a fork copies none. Its errors reach no task: a process logs the first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

from celery_guardrails.figures.attempt import AttemptEnd
from celery_guardrails.letters.header import Header, read_header, span_text
from celery_guardrails.printable import one_line

__all__ = ["FailureSpan", "kept_context", "link_to", "note_end", "with_span"]

logger = logging.getLogger("celery_guardrails.worker")

_SCOPE = "celery_guardrails"
_BEFORE = {"guardrails.link": "attempt_before"}
_LONGEST = 255
_LONGEST_WORDS = 1000
_LONGEST_CARRIED = 8192
"""Characters of a header that a propagator may read; W3C's `baggage` has at most as many."""
# nothing of a message or of an error's text: what a span shows, everybody with access to the traces sees
_SHOWN = (
    "task", "task_id", "outcome", "attempt", "max_attempts", "category", "error", "fingerprint", "delay", "queue",
    "generation", "letter_id", "reason",
)  # fmt: skip


def with_span(header: Header) -> Header:
    """The header of a failed attempt with the span that stands for the attempt; unchanged if it has no span."""
    try:
        trace = _trace()
        if trace is None:
            return header
        span = trace.get_current_span()
        context = span.get_span_context()
        if not (span.is_recording() and context.is_valid):
            return header
        text = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        return replace(header, span=span_text(text) or header.span)
    except Exception:  # noqa: BLE001 logged there
        _complain()
        return header


def link_to(before: object) -> None:
    """Link the running attempt's span to the span of the attempt before.

    Args:
        before: what the message says of that span; whatever is no span is ignored.

    Raises:
        SoftTimeLimitExceeded: the time limit of the task has passed meanwhile.
    """
    try:
        trace, text = _trace(), span_text(before)
        if trace is None or text is None:
            return
        span = trace.get_current_span()
        if span.is_recording():
            span.add_link(_context_of(trace, text), _BEFORE)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001 logged there
        _complain()


def note_end(end: AttemptEnd) -> None:
    """Put how an attempt ended on the current span, as attributes whose names begin with `guardrails.`."""
    try:
        trace = _trace()
        if trace is None:
            return
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes(_attributes({name: getattr(end, name) for name in _SHOWN}))
    except Exception:  # noqa: BLE001 logged there
        _complain()


@contextmanager
def kept_context() -> Iterator[None]:
    """Have the same span after the block as before, even if the block raises.

    Between Celery's signals around a publish the instrumentation's span of the publish is the current one. If the
    publish fails, Celery does not send the second signal.
    """
    token = None
    try:
        if _trace() is not None:
            from opentelemetry import context

            token = context.attach(context.get_current())
    except Exception:  # noqa: BLE001 logged there
        _complain()
    try:
        yield
    finally:
        _detach(token)


class FailureSpan:
    """A failure that only the main process sees, as a span `guardrails KIND` in the trace of its message.

    Within the block it is the current span, so that what is published there goes on with the trace.

    Args:
        kind: why the attempt ended, such as `time_limit`.
        headers: the message's headers, or a request's attributes; of a message that has none, anything.
    """

    def __init__(self, kind: str, headers: Any) -> None:
        self._kind = kind
        self._headers: Mapping[str, Any] = headers if isinstance(headers, Mapping) else {}
        self._span: Any = None
        self._token: Any = None
        self._words: str | None = None

    def explain(self, error: str, message: str) -> None:
        """Say what failed, for the span's status.

        Args:
            error: the type of the error.
            message: its text, without secrets.
        """
        self._words = one_line(f"{error}: {message}"[:_LONGEST_WORDS])

    def __enter__(self) -> FailureSpan:
        try:
            self._start()
        except Exception:  # noqa: BLE001 logged there
            _complain()
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._end()
        except Exception:  # noqa: BLE001 logged there
            _complain()
        _detach(self._token)

    def _start(self) -> None:
        trace = _trace()
        if trace is None:
            return
        from opentelemetry import context, propagate

        headers = self._headers
        # from an empty context: without a trace in the message, the span begins a trace of its own
        getter: Any = _HeaderGetter()  # the API's own base class is not there without the API
        parent = propagate.extract(headers, context=context.Context(), getter=getter)
        before = read_header(headers, attempts=False).span
        retries = headers.get("retries")
        facts = {
            "reason": self._kind,
            "task": _text(headers.get("task")),
            "task_id": _text(headers.get("id")),
            "attempt": retries + 1 if type(retries) is int else None,
        }
        self._span = trace.get_tracer(_SCOPE).start_span(
            f"guardrails {self._kind}",
            context=parent,
            links=[trace.Link(_context_of(trace, before), _BEFORE)] if before else None,
            attributes=_attributes(facts),
        )
        self._token = context.attach(trace.set_span_in_context(self._span, parent))

    def _end(self) -> None:
        if self._span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        try:
            self._span.set_status(Status(StatusCode.ERROR, self._words))
        finally:
            self._span.end()


class _HeaderGetter:
    """Reads a message's headers for a propagator: texts only, at the top or in the nested `headers` of Sentry."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        nested = carrier.get("headers")
        for headers in (carrier, nested):
            found = headers.get(key) if isinstance(headers, Mapping) else None
            if isinstance(found, str) and len(found) <= _LONGEST_CARRIED:
                return [found]
        return None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return [key for key in carrier if isinstance(key, str)]


def _trace() -> Any:
    """The module `opentelemetry.trace` where the application has imported it, else `None`.

    Without it, nobody can have set up tracing. It is not imported here: that would cost each process 0.1 s.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    return trace


def _context_of(trace: Any, text: str) -> Any:
    _, trace_id, span_id, flags = text.split("-")
    return trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))


def _attributes(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {f"guardrails.{name}": _shown(value) for name, value in facts.items() if value is not None and value != ""}


def _shown(value: Any) -> Any:
    return one_line(value)[:_LONGEST] if isinstance(value, str) else value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _detach(token: Any) -> None:
    if token is None:
        return
    try:
        from opentelemetry import context

        context.detach(token)
    except Exception:  # noqa: BLE001 logged there
        _complain()


_has_complained = False


def _complain() -> None:
    global _has_complained
    if not _has_complained:
        _has_complained = True
        words = "OpenTelemetry failed on what guardrails gave it; the tasks go on, and further errors are not logged"
        logger.warning(words, exc_info=True)
