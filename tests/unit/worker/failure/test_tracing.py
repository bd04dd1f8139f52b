"""What OpenTelemetry gets, in one process, with the SDK's exporter in memory beside the official instrumentation."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import opentelemetry.propagate
import opentelemetry.trace
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from celery_guardrails import GuardedTask, clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.header import HEADER, Header, read_header
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.worker.child.tracer import GuardInfo
from celery_guardrails.worker.consumer.unreadable import dead_letter_raw
from celery_guardrails.worker.failure import tracing
from celery_guardrails.worker.failure.tracing import FailureSpan, kept_context, link_to, with_span
from celery_guardrails.worker.failure.unsure import dead_letter_unsure
from tests.harness import ROOT
from tests.unit.traced import Gate, trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
FROM = {"traceparent": PARENT}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The official instrumentation, and an exporter that keeps what it and guardrails give it."""
    made, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    # a process can set its provider only once
    monkeypatch.setattr(opentelemetry.trace, "get_tracer", provider.get_tracer)
    yield made
    instrumentor.uninstrument()
    provider.shutdown()


@pytest.fixture(autouse=True)
def _has_not_complained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_has_complained", False)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def context_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def links_of(span: ReadableSpan) -> list[str]:
    return [f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" for link in span.links]


def test_attempts_are_one_chain_in_one_trace(
    app: Celery, gate: Gate, failing: Any, exporter: InMemorySpanExporter
) -> None:
    headers: dict[str, Any] = dict(FROM)
    for _ in range(failing.policy.max_attempts):
        trace(failing, headers=headers, info=GuardInfo)
        headers = gate.retries[-1].headers if gate.retries else {}
    spans = named(exporter, f"run/{failing.name}")
    assert [links_of(span) for span in spans] == [[], *([context_of(span)] for span in spans[:-1])]
    assert {context_of(span)[3:35] for span in spans} == {TRACE}
    last = dict(spans[-1].attributes or {})
    (letter,) = gate.letters
    assert letter.span == context_of(spans[-1])
    assert last["guardrails.letter_id"] == letter.id
    assert (last["guardrails.outcome"], last["guardrails.reason"]) == ("dead", "attempts_exhausted")


def test_a_success_has_nothing_of_ours(app: Celery, gate: Gate, exporter: InMemorySpanExporter) -> None:
    @app.task(base=GuardedTask, name="unit.fine", shared=False)
    def fine() -> None:
        pass

    trace(fine, headers=FROM, info=GuardInfo)
    (span,) = exporter.get_finished_spans()
    assert not [name for name in span.attributes or {} if name.startswith("guardrails")]
    assert span.links == ()


def test_a_publish_that_fails_leaves_its_span_behind(
    app: Celery, gate: Gate, failing: Any, exporter: InMemorySpanExporter
) -> None:
    gate.closed.add("unit.tasks")
    trace(failing, headers=FROM, info=GuardInfo)
    (span,) = named(exporter, f"run/{failing.name}")
    assert dict(span.attributes or {})["guardrails.reason"] == "retry_unpublishable"
    assert not opentelemetry.trace.get_current_span().get_span_context().is_valid


def test_no_argument_and_no_secret_of_an_error_is_on_a_span_of_ours(
    app: Celery, gate: Gate, exporter: InMemorySpanExporter
) -> None:
    with FailureSpan("time_limit", {"task": "unit\x1b[31m.x" * 100, "id": 7, "retries": True, **FROM}) as span:
        span.explain("TimeoutError", "late")
    (made,) = exporter.get_finished_spans()
    facts = dict(made.attributes or {})
    assert set(facts) == {"guardrails.reason", "guardrails.task"}
    assert "\x1b" not in str(facts["guardrails.task"])
    assert len(str(facts["guardrails.task"])) == 255
    assert made.status.description == "TimeoutError: late"


@pytest.mark.parametrize(
    "headers",
    [None, [1], {}, {"traceparent": 7}, {"traceparent": ["x"]}, {"traceparent": "x" * 9000}, {"headers": 3},
     {"traceparent": "00-zz-zz-01", HEADER: {"span": {}}}, {HEADER: {"span": f"00-{'0' * 32}-{'0' * 16}-00"}}],
)  # fmt: skip
def test_a_message_may_say_anything(exporter: InMemorySpanExporter, headers: Any, caplog: Any) -> None:
    with FailureSpan("undecodable", headers) as _:
        pass
    (span,) = exporter.get_finished_spans()
    assert span.parent is None
    assert caplog.text == ""


def test_what_a_message_has_in_sentrys_nested_headers_is_read(exporter: InMemorySpanExporter) -> None:
    with FailureSpan("expired", {"headers": FROM}):
        pass
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN


def test_what_is_published_within_a_span_of_ours_goes_on_with_the_trace(exporter: InMemorySpanExporter) -> None:
    headers: dict[str, str] = {}
    with FailureSpan("worker_lost", {**FROM, HEADER: Header(span=PARENT).encode()}):
        opentelemetry.propagate.inject(headers)
        header = with_span(Header())
    (span,) = exporter.get_finished_spans()
    assert headers["traceparent"] == header.span == context_of(span)
    assert links_of(span) == [PARENT]
    assert with_span(Header(span=PARENT)).span == PARENT  # no span is the current one: the latest stays


def test_a_retry_that_may_have_been_published_and_an_item_that_is_no_message_have_a_span(
    app: Celery, gate: Gate, failing: Any, exporter: InMemorySpanExporter
) -> None:
    guard, now = Guardrails.of(app), clock.now()
    headers = {"task": failing.name, "id": "t1", "retries": 1, **FROM, HEADER: Header(span=PARENT).encode()}
    envelope = Envelope(b"[[], {}, {}]", "unit.tasks", headers=headers, once=True)
    dead_letter_unsure(guard, Spooled(envelope, (), None, "attempt 2", now), "no answer", now)
    assert dead_letter_raw(guard, b"\xff", "unit.tasks", "tag")
    unsure, raw = exporter.get_finished_spans()
    for span, letter in zip((unsure, raw), gate.letters, strict=True):
        assert (span.name, span.status.status_code.name) == (f"guardrails {letter.reason.value}", "ERROR")
        assert dict(span.attributes or {})["guardrails.letter_id"] == letter.id
    assert links_of(unsure) == [PARENT]
    assert gate.letters[0].span == context_of(unsure)


class Raising:
    """A span, and a tracer, of which every use raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("tracing is broken")


def raising(*_: Any, **__: Any) -> Any:
    raise RuntimeError("tracing is broken")


BROKEN = [("trace", "get_current_span", lambda: Raising()), ("trace", "get_current_span", raising),
          ("trace", "get_tracer", lambda *_: Raising()), ("trace", "get_tracer", raising),
          ("propagate", "extract", raising), ("context", "attach", raising),
          ("context", "detach", raising)]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "broken"), BROKEN)
def test_what_raises_in_tracing_changes_nothing(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, module: str, name: str,
    broken: Any,
) -> None:  # fmt: skip
    import opentelemetry.context

    monkeypatch.setattr(getattr(opentelemetry, module), name, broken)

    def run() -> None:
        headers: dict[str, Any] = {HEADER: Header(span=PARENT).encode()}
        for _ in range(failing.policy.max_attempts):
            trace(failing, headers=headers, info=GuardInfo)
            headers = gate.retries[-1].headers if gate.retries else {}
        for _ in range(2):
            with FailureSpan("time_limit", FROM) as span, kept_context():
                span.explain("TimeoutError", "late")

    contextvars.copy_context().run(run)  # what cannot be detached stays in there
    (letter,) = gate.letters
    assert len(letter.attempts) == failing.policy.max_attempts
    assert caplog.text.count("OpenTelemetry failed") == 1


def test_an_exception_of_the_block_leaves_it(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(KeyError), FailureSpan("time_limit", FROM):
        raise KeyError("ours")
    with pytest.raises(KeyError), kept_context():
        raise KeyError("ours")
    assert len(exporter.get_finished_spans()) == 1
    assert not opentelemetry.trace.get_current_span().get_span_context().is_valid


def test_a_soft_time_limit_reaches_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def late() -> Any:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(opentelemetry.trace, "get_current_span", late)
    with pytest.raises(SoftTimeLimitExceeded):
        link_to(PARENT)


WITHOUT = """
import sys
from celery import Celery
import celery_guardrails.cli, celery_guardrails.worker.main.steps
from celery_guardrails import GuardedTask
from celery_guardrails.worker.failure.tracing import FailureSpan, link_to, with_span
from celery_guardrails.letters.header import Header
with FailureSpan("time_limit", {}) as span:
    span.explain("E", "m")
    link_to("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert with_span(Header()) == Header()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


def test_opentelemetry_is_not_imported_where_the_application_does_not() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_provider_nothing_is_noted(app: Celery, gate: Gate, failing: Any) -> None:
    trace(failing, headers=FROM, info=GuardInfo)
    with FailureSpan("time_limit", FROM):
        assert with_span(Header()) == Header()
    assert read_header(gate.retries[-1].headers).span is None
    assert gate.retries[-1].headers["traceparent"] == PARENT
