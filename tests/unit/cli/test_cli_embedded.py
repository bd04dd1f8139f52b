"""`celery worker --guardian`: the option, and the step that starts, watches and ends the guardian's process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from celery.bin.worker import worker as worker_command
from celery.concurrency.solo import TaskPool
from celery.exceptions import ImproperlyConfigured

from celery_guardrails.cli import _collect_faults
from celery_guardrails.cli.daemon import embedded
from celery_guardrails.cli.daemon.embedded import EmbeddedGuardian, _Process
from celery_guardrails.policy import faults


class Timer:
    """A timer that runs when the test says so."""

    def __init__(self) -> None:
        self.look: Callable[[], None] = lambda: None
        self.cancelled = False

    def call_repeatedly(self, _seconds: float, look: Callable[[], None]) -> Timer:
        self.look = look
        return self

    def cancel(self) -> None:
        self.cancelled = True


class Child:
    """What the step sees of a process."""

    pid = 4_000_000
    exitcode = 1

    def __init__(self, *, alive: bool = True, stubborn: bool = False) -> None:
        self.alive, self.stubborn, self.calls = alive, stubborn, list[str]()

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.calls.append("terminate")
        self.alive = self.stubborn

    def join(self, _seconds: float) -> None:
        self.calls.append("join")


@pytest.fixture
def worker() -> Any:
    app = Celery("shop", broker="memory://", set_as_current=False)
    return SimpleNamespace(app=app, timer=Timer(), pool_cls=TaskPool)


def started(worker: Any, child: Child) -> EmbeddedGuardian:
    step = EmbeddedGuardian(worker, guardian=True)
    step.obj = child
    step.start(worker)
    return step


def test_it_is_there_only_when_it_was_asked_for(worker: Any) -> None:
    assert EmbeddedGuardian(worker, guardian=True).include_if(worker)
    assert not EmbeddedGuardian(worker).include_if(worker)


def test_it_starts_a_process_for_the_application_before_any_step_starts(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # forked beside a thread that was loading a module, it waited for that module for ever
    begun: list[_Process] = []
    monkeypatch.setattr(_Process, "start", lambda process: begun.append(process))
    process = EmbeddedGuardian(worker, guardian=True).create(worker)
    assert begun == [process]
    assert process._project_name == "PROJ"


def test_green_pools_are_refused(worker: Any) -> None:
    worker.pool_cls = type("TaskPool", (), {"__module__": "celery.concurrency.gevent"})
    with pytest.raises(ImproperlyConfigured, match="as its own process"):
        EmbeddedGuardian(worker, guardian=True).create(worker)


@pytest.mark.parametrize("end", ["stop", "terminate"])
def test_it_ends_with_the_worker(worker: Any, end: str) -> None:
    child = Child()
    step = started(worker, child)
    worker.timer.look()
    getattr(step, end)(worker)
    assert child.calls == ["terminate", "join"]
    assert worker.timer.cancelled
    getattr(step, end)(worker)
    assert child.calls == ["terminate", "join"]


def test_a_worker_that_never_started_it_ends_too(worker: Any) -> None:
    EmbeddedGuardian(worker, guardian=True).stop(worker)


def test_one_that_does_not_end_is_killed(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "celery_guardrails.cli.daemon.embedded.os.kill", lambda pid, number: killed.append((pid, number))
    )
    started(worker, Child(stubborn=True)).stop(worker)
    assert killed == [(Child.pid, 9)]


def test_its_death_is_said_once(worker: Any, caplog: pytest.LogCaptureFixture) -> None:
    child = Child(alive=False)
    step = started(worker, child)
    worker.timer.look()
    worker.timer.look()
    assert caplog.text.count("ended with exit code 1") == 1
    step.stop(worker)
    assert child.calls == []


def test_it_ends_when_its_worker_is_gone(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process(worker.app, "shop")
    process._parent = -1
    monkeypatch.setattr(embedded, "_FOLLOW_EVERY", 0.001)
    stop = threading.Event()
    process._follow_parent(stop)
    assert stop.is_set()


def test_the_option_adds_the_step_to_the_application(worker: Any) -> None:
    option = next(param for param in worker_command.params if param.name == "guardian")
    for words, expected in (([], False), (["--guardian"], True)):
        context = worker_command.make_context(
            "worker", words, obj=CLIContext(app=worker.app, no_color=True, workdir=None)
        )
        assert context.params["guardian"] is expected
        assert (EmbeddedGuardian in worker.app.steps["worker"]) is expected
    assert option.get_help_record(context) is not None


@pytest.mark.parametrize(
    ("words", "collects"),
    [(["-A", "p", "guardrails", "check"], True), (["-A", "p", "guardrails", "dlq"], False), (["check"], False)],
)
def test_faults_are_collected_only_for_check(monkeypatch: pytest.MonkeyPatch, words: list[str], collects: bool) -> None:
    monkeypatch.setattr(sys, "argv", ["celery", *words])
    try:
        _collect_faults()
        assert faults.is_collecting() is collects
    finally:
        faults.stop()
