"""Copies of code in billiard's tracebacks: shared, and as good as those that are made for each failure."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo, Traceback

from celery_guardrails.worker.child import code_copy
from celery_guardrails.worker.child.code_copy import Copies, keep_copies

BODY = "def fail():\n    raise ValueError('wrong')\n"


@pytest.fixture
def usual() -> Iterator[Callable[[Any], Any]]:
    """billiard's own way, which is there again afterwards."""
    kept = Traceback.Frame.Code
    Traceback.Frame.Code = getattr(kept, "_copy", kept)
    yield Traceback.Frame.Code
    Traceback.Frame.Code = kept


def made(name: str) -> Callable[[], None]:
    """The same function, of a file of that name."""
    names: dict[str, Any] = {}
    exec(compile(BODY, name, "exec"), names)
    fail: Callable[[], None] = names["fail"]
    return fail


def info(fail: Callable[[], None]) -> ExceptionInfo:
    try:
        fail()
    except ValueError:
        return ExceptionInfo()


def shown(info: ExceptionInfo) -> str:
    return "".join(traceback.format_exception(*info.exc_info))


def last(info: ExceptionInfo) -> Any:
    return info.tb.tb_next.tb_frame.f_code


def test_what_failed_before_is_copied_once_and_reads_the_same(usual: Any) -> None:
    fail = made("here.py")
    before = info(fail)
    keep_copies()
    keep_copies()
    first, second = info(fail), info(fail)
    assert shown(first) == shown(second) == shown(before)
    assert first.traceback == before.traceback
    assert last(first) is last(second)
    assert last(first) is not last(before)
    assert shown(pickle.loads(pickle.dumps(first))) == shown(pickle.loads(pickle.dumps(before)))
    assert Traceback.Frame.Code._copy is usual


def test_equal_code_of_another_file_keeps_its_name(usual: Any) -> None:
    keep_copies()
    here, there = made("here.py"), made("there.py")
    assert here.__code__ == there.__code__
    assert [last(info(fail)).co_filename for fail in (here, there, here)] == ["here.py", "there.py", "here.py"]


def test_the_copies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_copy, "_MOST", 2)
    copied: list[Any] = []
    copies = Copies(lambda code: copied.append(code) or len(copied))
    codes = [made(f"{number}.py").__code__ for number in range(3)]
    assert [copies(code) for code in (*codes, codes[2], codes[0])] == [1, 2, 3, 3, 4]
    assert len(copies._made) == 2
