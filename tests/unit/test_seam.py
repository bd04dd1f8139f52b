from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from celery.worker.request import Request

from celery_guardrails import seams
from celery_guardrails.seam import Guard, Missing, Seam, explain, is_later, problem_of, report

GUARD = Guard("the test", "Nothing is tested.")
VITAL = Guard("all", "All is lost.", vital=True)


class Made:
    on_class = 1

    def __init__(self) -> None:
        self._on_instance = 1

    def method(self, first: Any, second: Any = None, *, third: Any = None) -> None: ...

    def open(self, *args: Any, **options: Any) -> None: ...

    def nested(self) -> Any:
        return lambda job: job._payload


@pytest.fixture(autouse=True)
def _module() -> Iterator[None]:
    module = ModuleType("celery_like")
    module.Made = Made  # type: ignore[attr-defined]
    sys.modules["celery_like"] = module
    yield
    del sys.modules["celery_like"]


def seam(path: str, *takes: str) -> Seam:
    return Seam(f"celery_like:{path}", "a test", (GUARD,), takes or None)


@pytest.mark.parametrize("path", ["Made", "Made.on_class", "Made._on_instance", "Made.method", "Made.nested._payload"])
def test_what_is_there_is_found(path: str) -> None:
    assert problem_of(seam(path)) == ""


@pytest.mark.parametrize("path", ["Gone", "Made.gone", "Made._gone", "Gone.method", "Made.nested._gone"])
def test_what_is_gone_is_missed(path: str) -> None:
    assert problem_of(seam(path)) == "is gone"


def test_a_module_that_is_gone_is_missed() -> None:
    assert problem_of(replace(seam("Made"), name="celery_unlike:Made")) == "is gone"


@pytest.mark.parametrize(
    ("path", "takes", "fits"),
    [
        ("Made.method", ("first",), True),
        ("Made.method", ("first", "second"), True),
        ("Made.method", ("second",), False),
        ("Made.method", ("first", "*", "third"), True),
        ("Made.method", ("first", "*", "fourth"), False),
        ("Made.open", ("first", "second"), True),
        ("Made.open", ("first", "*", "third"), True),
    ],
)
def test_parameters_are_compared(path: str, takes: tuple[str, ...], fits: bool) -> None:
    problem = problem_of(seam(path, *takes))
    assert problem == "" if fits else problem.startswith("takes (")


def test_what_a_release_cannot_have_yet_is_not_missed() -> None:
    assert is_later(Seam("celery:gone", "a test", (GUARD,), since="99.0"))
    assert not is_later(Seam("celery:gone", "a test", (GUARD,), since="5.0"))
    assert not is_later(Seam("celery:gone", "a test", (GUARD,)))


def test_the_report_says_what_is_missing_what_that_means_and_what_to_do() -> None:
    text = report([Missing(seam("Made.gone"), "is gone"), Missing(replace(seam("All"), guards=(VITAL,)), "is gone")])
    assert "celery_like:Made.gone is gone (a test)" in text
    assert "the test: off, as in plain Celery. Nothing is tested." in text
    assert "all: needed, guardrails does not work without it. All is lost." in text
    assert re.search(r"pip install '?celery[^']*<5\.8", text)


def test_an_import_that_fails_on_celery_is_explained() -> None:
    with pytest.raises(ImportError) as failed:
        from celery.app.trace import no_such_name  # type: ignore[attr-defined]  # noqa: F401
    assert "celery-guardrails does not work with Celery" in str(explain(failed.value))
    with pytest.raises(AttributeError) as missed:
        Request.no_such_name  # noqa: B018
    assert "celery-guardrails does not work with Celery" in str(explain(missed.value))


def test_another_import_that_fails_stays_as_it_is() -> None:
    with pytest.raises(ImportError) as failed:
        from json import no_such_name  # type: ignore[attr-defined]  # noqa: F401
    assert explain(failed.value) is failed.value


def test_nothing_is_missing_here_and_a_guard_holds() -> None:
    assert seams.missing() == []
    assert all(seams.holds(guard) for guard in seams.GUARDS)
