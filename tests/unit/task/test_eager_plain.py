"""Eager mode beside plain Celery's: what comes of a call, which hooks run, and what propagates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, chain, chord
from celery.exceptions import Retry

from celery_guardrails import Constant, GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails


@pytest.fixture
def propagating(new_app: Callable[..., Celery]) -> Celery:
    return new_app(task_eager_propagates=True)


def test_what_propagates_is_celerys_retry(propagating: Celery, quick: Any, count: SimpleNamespace) -> None:
    """As with plain Celery: a test that has errors propagated sees each attempt end."""

    @quick(propagating, max_attempts=3)
    def flaky() -> None:
        count.runs += 1
        raise ConnectionError("down")

    with pytest.raises(Retry) as raised:
        flaky.delay()
    assert isinstance(raised.value.exc, ConnectionError)
    assert (count.runs, raised.value.is_eager, raised.value.when) == (1, True, 0)
    assert not Guardrails.of(propagating).captured


def test_what_propagates_is_final_where_no_attempt_is_left(propagating: Celery, quick: Any) -> None:
    @quick(propagating, max_attempts=1)
    def flaky() -> None:
        raise ConnectionError("down")

    @quick(propagating, "unit.bug", max_attempts=3)
    def bug() -> None:
        raise KeyError("x")

    with pytest.raises(ConnectionError):
        flaky.delay()
    with pytest.raises(KeyError):
        bug.delay()
    assert len(Guardrails.of(propagating).captured) == 2


def test_a_policys_own_delay_is_in_what_propagates(propagating: Celery, quick: Any) -> None:
    @quick(propagating, max_attempts=3, backoff=Constant("5s"))
    def flaky() -> None:
        raise ConnectionError("down")

    with pytest.raises(Retry, match="in 5 s"):
        flaky.delay()


def noting(base: type, seen: list[str]) -> type:
    """A task class on `base` that notes which of its hooks run."""

    class Base(base):  # type: ignore[misc,valid-type]
        abstract = True

        def on_retry(self, *args: Any) -> None:
            seen.append("on_retry")

        def on_failure(self, *args: Any) -> None:
            seen.append("on_failure")

        def on_success(self, *args: Any) -> None:
            seen.append("on_success")

        def before_start(self, *args: Any) -> None:
            seen.append("before_start")

        def after_return(self, status: str, *args: Any) -> None:
            seen.append(f"after_return {status}")

    return Base


def play(app: Celery, base: type, call: Callable[[Any, Any], Any], **policy: Any) -> tuple[str, list[str]]:
    """What comes of a call, and which of its task's hooks ran meanwhile."""
    seen: list[str] = []
    task: Any = functools.partial(app.task, shared=False)

    @task(base=noting(base, seen), name="unit.flaky", bind=True, max_retries=3, default_retry_delay=0, **policy)
    def flaky(self: Any, times: int) -> int:
        seen.append(f"run {self.request.retries}")
        if self.request.retries < times:
            raise self.retry(exc=OSError("blip"))
        return int(self.request.retries)

    @task(base=base, name="unit.note")
    def note(*args: Any) -> None:
        seen.append(f"noted {len(args)}")

    app.finalize()
    try:
        result = call(flaky, note)
    except Exception as exc:  # noqa: BLE001 compared with plain Celery's
        return repr(exc), seen
    return f"{result.state} {result.result!r}", seen


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "retried, then well": lambda flaky, note: flaky.delay(2),
    "exhausted": lambda flaky, note: flaky.delay(9),
    "thrown": lambda flaky, note: flaky.apply((9,), throw=True),
    "late start": lambda flaky, note: flaky.apply((2,), retries=1),
    "linked": lambda flaky, note: flaky.apply_async((1,), link=note.s(5)),
    "linked errors": lambda flaky, note: flaky.apply_async((9,), link_error=note.s()),
    "chained": lambda flaky, note: chain(flaky.s(1), note.s()).delay(),
    "in a chord": lambda flaky, note: chord([flaky.s(1), flaky.s(0)])(note.s()),
}


@pytest.mark.parametrize("conf", [{}, {"task_eager_propagates": True}, {"task_store_eager_result": True}], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_swapping_the_base_class_changes_nothing_in_tests(
    new_app: Callable[..., Celery], name: str, conf: dict[str, bool]
) -> None:
    plain, guarded = new_app(), new_app()
    for app in (plain, guarded):
        app.conf.update(conf)
    policy = Policy(retry_on=(OSError,), max_attempts=4, backoff=Constant(0), jitter="none")
    assert play(guarded, GuardedTask, CALLS[name], policy=policy) == play(plain, Task, CALLS[name])


def test_the_hooks_run_for_attempts_of_the_policy_too(new_app: Callable[..., Celery], count: SimpleNamespace) -> None:
    class Base(GuardedTask):
        abstract = True

        def on_retry(self, exc: Any, *args: Any) -> None:
            count.seen.append(repr(exc))

        def before_start(self, *args: Any) -> None:
            count.runs += 1

    app = new_app()
    policy = Policy(max_attempts=3, backoff=Constant(0), jitter="none")

    @app.task(shared=False, base=Base, name="unit.flaky", policy=policy)
    def flaky() -> None:
        raise ConnectionError("down")

    assert isinstance(flaky.delay().result, ConnectionError)
    assert count.seen == ["ConnectionError('down')"] * 2
    assert count.runs == 3
