"""What leaves a task in place of an exception that would end its worker, and what a result backend makes of it."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
from celery import Celery
from celery.backends.base import BaseBackend
from celery.utils.serialization import get_pickleable_exception

from celery_guardrails.errors import TaskAborted
from celery_guardrails.worker.child.exits import harmless


class Strange(BaseException):
    """A task's own exception that is no `Exception`."""


ABORTS = [SystemExit(3), SystemExit("bye"), MemoryError("no memory"), GeneratorExit(), Strange("odd", 7)]


@pytest.mark.parametrize("exc", ABORTS, ids=repr)
def test_a_result_has_the_original_type(exc: BaseException) -> None:
    backend = BaseBackend(Celery(set_as_current=False))
    told = harmless(exc)
    assert isinstance(told, TaskAborted)
    kept = backend.decode(backend.encode(backend.prepare_exception(told)))
    back = backend.exception_to_python(kept)
    assert type(back) is type(exc)
    assert back.args == exc.args


@pytest.mark.parametrize("exc", ABORTS, ids=repr)
def test_it_is_harmless_where_it_crosses_to_the_main_process(exc: BaseException) -> None:
    told = pickle.loads(pickle.dumps(get_pickleable_exception(harmless(exc))))
    assert isinstance(told, TaskAborted)
    assert not isinstance(told, (SystemExit, MemoryError, GeneratorExit, Strange))
    assert type(told).__name__ == type(exc).__name__
    assert told.args == exc.args
    assert told.error.endswith(type(exc).__name__)
    assert str(told) == str(exc)


@pytest.mark.parametrize("held", [threading.Lock(), lambda: None])
def test_arguments_that_cannot_cross_become_words(held: Any) -> None:
    told = pickle.loads(pickle.dumps(harmless(Strange("odd", held, 7))))
    assert told.args == ("odd", type(held).__name__, 7)


def test_what_every_pool_survives_stays_what_it_is() -> None:
    exc = ValueError("x")
    assert harmless(exc) is exc
