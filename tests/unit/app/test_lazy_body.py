"""Bodies that a call does not run: what becomes of them, and what is said of them beforehand."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.app import trace as tracing

from celery_guardrails import Constant, GuardedTask, Guardrails, Policy
from celery_guardrails.app.caveat import caveats, log_caveats
from celery_guardrails.app.lazy_body import has_foreign_tracer
from tests.unit.traced import Gate, trace

EAGERLY = Policy(retry_on=(Exception,), max_attempts=3, backoff=Constant(0), jitter="none")


async def an_async() -> str:
    return "ran"


async def an_async_generator() -> AsyncIterator[int]:
    yield 1


def a_generator() -> Iterator[int]:
    yield 1


def returns_a_coroutine() -> Any:
    return an_async()


async def an_async_of(item: int) -> int:
    return item


def a_generator_of(item: int) -> Iterator[int]:
    yield item


def returns_a_coroutine_of(item: int) -> Any:
    return an_async_of(item)


def declared(app: Celery, function: Any, **options: Any) -> Any:
    task: Any = functools.partial(app.task, shared=False, base=GuardedTask, policy=EAGERLY, name="unit.lazy")
    return app.tasks[task(**options)(function).name]


@pytest.mark.parametrize("ignore_result", [False, True])
@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (an_async, "unit.lazy is an `async def`"),
        (an_async_generator, "unit.lazy is an async generator"),
        (a_generator, "unit.lazy is a generator"),
        (returns_a_coroutine, "unit.lazy returned the coroutine an_async, which nothing awaited"),
    ],
)
def test_what_never_ran_is_a_dead_letter(
    app: Celery, gate: Gate, function: Any, problem: str, ignore_result: bool
) -> None:
    task = declared(app, function, ignore_result=ignore_result)
    outcome = trace(task)
    assert outcome.info.state == "FAILURE"
    (letter,) = gate.letters
    assert gate.retries == []
    assert letter.reason.value == "permanent_error"
    assert problem in letter.failure.message
    assert "did not run" in letter.failure.message
    assert "succeeded" not in letter.explanation + letter.failure.message


@pytest.mark.parametrize("ignore_result", [False, True])
@pytest.mark.parametrize("function", [an_async_of, a_generator_of, returns_a_coroutine_of])
def test_items_that_never_ran_are_a_dead_letter(app: Celery, gate: Gate, function: Any, ignore_result: bool) -> None:
    task = declared(app, function)
    app.tasks["celery.map"].ignore_result = ignore_result
    outcome = trace(app.tasks["celery.map"], {"task": task.name, "args": [], "kwargs": {}}, [1, 2])
    assert outcome.info.state == "FAILURE"
    (letter,) = gate.letters
    assert letter.reason.value == "permanent_error"
    assert letter.task == "unit.lazy"
    assert "did not run" in letter.failure.message
    assert "succeeded" not in letter.explanation + letter.failure.message


def test_a_class_that_runs_the_coroutine_goes_on(app: Celery, gate: Gate) -> None:
    class Running(GuardedTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return asyncio.run(super().__call__(*args, **kwargs))

    task: Any = functools.partial(app.task, shared=False, base=Running, name="unit.run")
    task = app.tasks[task()(an_async).name]
    assert trace(task).info is None
    assert gate.letters == []
    assert list(caveats([task])) == []


def test_a_wrapper_that_runs_it_is_an_ordinary_body(app: Celery, gate: Gate) -> None:
    @functools.wraps(an_async)
    def run() -> str:
        return asyncio.run(an_async())

    task = declared(app, run)
    trace(task)
    assert gate.letters == []
    assert list(caveats([task])) == []


def test_a_body_that_ran_may_return_a_generator(app: Celery, gate: Gate) -> None:
    def lists() -> Iterator[int]:
        return (n for n in range(3))

    trace(declared(app, lists, ignore_result=True))
    assert gate.letters == []


def test_anothers_tracer_may_await_it(app: Celery, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    task = declared(app, an_async, ignore_result=True)
    assert not has_foreign_tracer()

    def build_tracer(*args: Any, **options: Any) -> Any: ...

    monkeypatch.setattr(tracing, "build_tracer", build_tracer)
    assert has_foreign_tracer()
    task.push_request(called_directly=False, is_eager=False)
    coroutine = task()
    assert asyncio.run(coroutine) == "ran"


def test_in_eager_mode_the_caller_gets_the_coroutine(new_app: Any) -> None:
    task = declared(new_app({}), an_async)
    assert asyncio.run(task.delay().result) == "ran"


def test_under_the_kill_switch_it_is_celerys(new_app: Any) -> None:
    app = new_app({"enabled": False})
    task = declared(app, an_async, ignore_result=True)
    task.push_request(called_directly=False, is_eager=False)
    assert asyncio.run(task()) == "ran"


@pytest.mark.parametrize("function", [an_async, an_async_generator, a_generator])
def test_they_are_named_beforehand(app: Celery, function: Any) -> None:
    task = declared(app, function)
    (caveat,) = caveats(Guardrails.of(app).guarded_tasks())
    assert caveat.task == task.name
    assert "its body does not run" in caveat.found
    assert "plain `def`" in caveat.fix


def test_a_strategy_of_ones_own_is_named_beforehand(app: Celery) -> None:
    class Batch(GuardedTask):
        abstract = True

        def Strategy(self, task: Any, app: Any, consumer: Any) -> Any: ...

    @app.task(shared=False, base=Batch, name="unit.batch")
    def batch(requests: Any) -> None: ...

    @app.task(shared=False, base=GuardedTask, name="unit.usual")
    def usual() -> None: ...

    (caveat,) = caveats(Guardrails.of(app).guarded_tasks())
    assert caveat.task == "unit.batch"
    assert "Batch.Strategy" in caveat.found


def test_a_worker_says_it_once(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    declared(app, an_async)
    guard = Guardrails.of(app)
    log_caveats(guard)
    log_caveats(guard)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("unit.lazy is an `async def`")
