"""What the main process is told of a retry: little, and all that anybody reads."""

from __future__ import annotations

import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo, Traceback
from celery import Celery, signals
from celery.app import trace as tracing
from celery.exceptions import Retry

from celery_guardrails import GuardedTask, Guardrails
from celery_guardrails.worker.child.tracer import FormattedOnce, GuardInfo, RetryInfo, brief_traceback, retrace
from celery_guardrails.worker.main.steps import TraceStep
from tests.unit.traced import Gate


def attempt(task: Any, info: type = GuardInfo, **options: Any) -> ExceptionInfo:
    """What one failed attempt hands to the main process."""
    built = tracing.build_tracer(task.name, task, app=task.app, Info=info)
    request = {"id": "t-1", "retries": 0, "hostname": "w@here", "delivery_info": {"routing_key": "unit.tasks"}}
    request.update(options)
    return built(request["id"], (), {}, request).retval


def test_a_retry_crosses_to_the_main_process_small_and_whole(gate: Gate, failing: Any) -> None:
    found = attempt(failing)
    wire = pickle.dumps(found)
    read = pickle.loads(wire)
    assert type(read) is RetryInfo
    assert len(wire) < 1500, "Celery's are tens of thousands of bytes"
    assert isinstance(read.exception, Retry)
    assert (read.type, read.tb, read.internal) == (Retry, None, False)
    assert read.exc_info == (Retry, read.exception, None)
    assert repr(read.exception.exc) == "ConnectionError('down')"
    assert read.traceback == found.traceback == str(found)


def test_its_text_says_where_the_attempt_failed(failing: Any, gate: Gate) -> None:
    failing.ignore_result = True
    text = attempt(failing).traceback
    assert text.startswith("Traceback (most recent call last):\n  File ")
    assert ", in failing\nConnectionError('down')\n\ncelery.exceptions.Retry: attempt 2 of 2" in text


def test_the_text_is_bounded() -> None:
    def deep(left: int) -> None:
        if not left:
            raise ConnectionError("x" * 100_000)
        deep(left - 1)

    try:
        deep(200)
    except ConnectionError as exc:
        found = brief_traceback(Retry("again", exc))
    assert len(found) < 20_000
    assert brief_traceback(Retry("again")) == "celery.exceptions.Retry: again\n"
    assert brief_traceback(Retry(exc="only a text", when=3)) == "celery.exceptions.Retry: Retry in 3s: only a text\n"


def test_whoever_listens_to_task_retry_gets_the_frames(gate: Gate, failing: Any) -> None:
    heard: list[Any] = []

    def receive(**given: Any) -> None:
        heard.append(given["einfo"])

    signals.task_retry.connect(receive)
    try:
        found = attempt(failing)
    finally:
        signals.task_retry.disconnect(receive)
    assert heard == [found]
    assert type(found) is ExceptionInfo
    assert isinstance(found.tb, Traceback)


def test_a_task_with_on_retry_gets_the_frames(app: Celery, quick: Any) -> None:
    heard: list[Any] = []

    class Base(GuardedTask):
        abstract = True

        def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
            heard.append((exc, einfo))

    @quick(app, base=Base)
    def watched() -> None:
        raise ConnectionError("down")

    found = attempt(watched)
    ((exc, einfo),) = heard
    assert einfo is found
    assert type(found) is ExceptionInfo
    assert isinstance(exc, ConnectionError)


def test_the_result_backend_keeps_what_celery_would_keep(failing: Any, gate: Gate) -> None:
    stored = []
    for info in (tracing.TraceInfo, GuardInfo):
        attempt(failing, info)
        meta = failing.backend.get_task_meta("t-1", cache=False)
        stored.append((meta["status"], repr(meta["result"]), meta["traceback"]))
    assert stored[0] == stored[1]
    assert stored[1][0] == "RETRY"
    assert "celery/app/trace.py" in stored[1][2]


def test_without_a_result_nothing_is_stored(app: Celery, quick: Any) -> None:
    @quick(app, ignore_result=True)
    def forgotten() -> None:
        raise ConnectionError("down")

    assert "in forgotten" in attempt(forgotten, id="t-2").traceback
    assert forgotten.backend.get_task_meta("t-2", cache=False)["status"] == "PENDING"


def test_an_error_that_cannot_be_pickled_crosses_as_celery_makes_it(app: Celery, quick: Any) -> None:
    class Local(ConnectionError):
        def __init__(self) -> None:
            super().__init__("down", lambda: None)

    @quick(app, retry_on=(Local,))
    def odd() -> None:
        raise Local

    read = pickle.loads(pickle.dumps(attempt(odd)))
    assert "Local" in repr(read.exception.exc)


def test_the_log_says_what_celery_says(gate: Gate, failing: Any, caplog: pytest.LogCaptureFixture) -> None:
    said = []
    for info in (tracing.TraceInfo, GuardInfo):
        caplog.clear()
        with caplog.at_level(logging.INFO, "celery.app.trace"):
            attempt(failing, info)
        (record,) = (record for record in caplog.records if "retry:" in record.getMessage())
        said.append((record.getMessage(), record.levelno, record.data))  # type: ignore[attr-defined]
    assert said[0] == said[1]


def test_a_pools_child_runs_guarded_tasks_with_it(app: Celery, failing: Any, gate: Gate) -> None:
    @app.task(name="unit.plain", shared=False)
    def plain() -> None: ...

    failing.__trace__ = None
    app.set_current()
    signals.worker_process_init.send(sender="w@here")
    assert plain.__trace__ is None
    request = {"id": "t-1", "retries": 0, "delivery_info": {"routing_key": "unit.tasks"}}
    assert type(failing.__trace__("t-1", (), {}, request).retval) is RetryInfo


def test_another_applications_child_leaves_it_alone(app: Celery, failing: Any) -> None:
    failing.__trace__ = None
    Celery("other", set_as_current=True)
    signals.worker_process_init.send(sender=None)
    assert failing.__trace__ is None


def test_a_pool_in_the_worker_itself_gets_it_too(app: Celery, failing: Any) -> None:
    consumer = SimpleNamespace(app=app, hostname="w@here")
    failing.__trace__ = None
    TraceStep(consumer).start(consumer)
    assert failing.__trace__ is not None


def test_the_kill_switch_leaves_celerys_tracer(new_app: Any, quick: Any) -> None:
    app = new_app({"enabled": False})

    @quick(app)
    def off() -> None: ...

    retrace(Guardrails.of(app), "w@here")
    assert off.__trace__ is None


def test_where_it_cannot_be_had_celerys_tracer_stays(
    app: Celery, failing: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise TypeError("unexpected keyword argument 'Info'")

    failing.__trace__ = mine = object()
    monkeypatch.setattr(tracing, "build_tracer", refuse)
    retrace(Guardrails.of(app), "w@here")
    assert failing.__trace__ is mine
    assert "keep Celery's own tracer" in caplog.text


@pytest.mark.parametrize("noted", [[], [{}, set(), "noted@here"]])
def test_the_workers_name_is_celerys_own(
    app: Celery, failing: Any, noted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[Any] = []

    def note(name: str, task: Any, loader: Any, hostname: Any, **options: Any) -> None:
        if name == failing.name:
            names.append(hostname)

    monkeypatch.setattr(tracing, "_localized", noted)
    monkeypatch.setattr(tracing, "build_tracer", note)
    retrace(Guardrails.of(app))
    retrace(Guardrails.of(app), "given@here")
    assert names == [noted[2] if noted else None, "given@here"]


def test_a_final_failure_is_celerys_in_the_child_and_leaves_its_frames_there(
    app: Celery, gate: Gate, failing: Any
) -> None:
    heard: list[Any] = []

    def receive(**given: Any) -> None:
        heard.append(given["einfo"])

    signals.task_failure.connect(receive)
    try:
        theirs, ours = (attempt(failing, info, retries=1) for info in (tracing.TraceInfo, GuardInfo))
    finally:
        signals.task_failure.disconnect(receive)
    assert heard == [theirs, ours]
    assert isinstance(ours.tb, Traceback)
    assert isinstance(ours, ExceptionInfo)
    text = theirs.traceback
    assert failing.backend.get_task_meta("t-1", cache=False)["traceback"] == text
    wire = pickle.dumps(ours)
    assert len(wire) < len(pickle.dumps(theirs)) / 2
    read, celerys = pickle.loads(wire), pickle.loads(pickle.dumps(theirs))
    assert (read.type, read.tb, read.internal) == (celerys.type, None, celerys.internal)
    assert read.traceback == celerys.traceback == text
    assert repr(read.exception) == repr(celerys.exception) == "ConnectionError('down')"
    assert str(read.exception.__cause__) == str(celerys.exception.__cause__)
    assert isinstance(ours.tb, Traceback), "pickling has taken it away from those who look at it here"


def test_the_log_of_a_failure_prints_the_traceback_that_celery_prints(app: Celery, quick: Any) -> None:
    printed: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            printed.append(logging.Formatter("%(message)s").format(record))

    @quick(app)
    def fails() -> None:
        try:
            raise KeyError("inner\n\n")
        except KeyError as exc:
            raise ValueError("a text of\nseveral lines\n") from exc

    for added in (logging.Filter(), FormattedOnce()):
        handler = Handler(logging.ERROR)
        tracing.logger.addHandler(handler)
        tracing.logger.addFilter(added)
        try:
            attempt(fails)
        finally:
            tracing.logger.removeFilter(added)
            tracing.logger.removeHandler(handler)
    celerys, ours = printed
    assert "KeyError" in celerys
    assert "ValueError: a text of" in celerys
    assert ours.rstrip("\n") == celerys.rstrip("\n")
