"""Tracing in a test's application: the processes of a worker write their spans to a file, a span a line.

It is set up as `docs/tracing.md` says, with an exporter that writes at once: a killed process loses only what had not
ended.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

__all__ = ["set_up", "set_up_what_raises"]


class ToFile(SpanExporter):
    """Writes each span as a line of JSON."""

    def __init__(self) -> None:
        self._path = Path(os.environ.get("GUARDED_RUNS", ".")) / "spans"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a") as file:
            for span in spans:
                scope = "" if span.instrumentation_scope is None else span.instrumentation_scope.name
                file.write(json.dumps({"pid": os.getpid(), "scope": scope, **json.loads(span.to_json())}) + "\n")
        return SpanExportResult.SUCCESS


class OfEachProcess(SpanProcessor):
    """Gives each process a processor of its own, made after the fork."""

    def __init__(self, make: Callable[[], SpanProcessor]) -> None:
        self._make = make
        self._made: dict[int, SpanProcessor] = {}

    def _own(self) -> SpanProcessor:
        pid = os.getpid()
        if pid not in self._made:
            self._made = {pid: self._make()}
        return self._made[pid]

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._own().on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        self._own().on_end(span)


class RaisingTracers(trace.TracerProvider):
    """Has no tracer for anybody."""

    def get_tracer(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("no tracer")


class RaisingPropagator(TextMapPropagator):
    """Reads and writes nothing."""

    fields: Any = frozenset()

    def extract(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("no context to be had")

    def inject(self, *args: Any, **options: Any) -> None:
        raise RuntimeError("no context to be given")


def set_up() -> None:
    """Trace this process and those that it forks, with the official instrumentation."""
    provider = TracerProvider()
    provider.add_span_processor(OfEachProcess(lambda: SimpleSpanProcessor(ToFile())))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


def set_up_what_raises() -> None:
    """Have all raise that guardrails asks of OpenTelemetry. The instrumentation would not survive that."""
    trace.set_tracer_provider(RaisingTracers())
    propagate.set_global_textmap(RaisingPropagator())
