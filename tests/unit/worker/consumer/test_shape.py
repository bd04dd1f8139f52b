"""Which shapes of a message are wrong, and that the check of a good one says nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from celery import Celery

from celery_guardrails.worker.consumer.shape import shape_problem

APP = Celery("shape", set_as_current=False)
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
GOOD = [[1], {"a": 2}, EMBED]


def headers(**changes: Any) -> dict[str, Any]:
    return {"task": "t", "id": "x", "retries": 0, "timelimit": [None, None], "eta": None, **changes}


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize(
    ("payload", "changes"),
    [
        (GOOD, {}),
        ([(1,), {}, None], {}),
        ([[], {}, {}], {"timelimit": None}),
        (GOOD, {"timelimit": [60, 30.5]}),
        (GOOD, {"retries": None}),
        (GOOD, {"shadow": "another name"}),
        (GOOD, {"stamped_headers": ["tenant"], "stamps": {"tenant": ["a"]}}),
        (GOOD, {"stamped_headers": ["tenant"], "stamps": None}),
        (GOOD, {"stamped_headers": [], "stamps": {}}),
        (GOOD, {"eta": "2026-11-22T22:00:00+00:00"}),
        (GOOD, {"eta": "soon"}),  # Celery says so itself
        ({"task": "t", "id": "x", "args": [], "kwargs": {}}, {}),
    ],
)
def test_a_good_message_passes(payload: Any, changes: dict[str, Any], guarded: bool) -> None:
    assert shape_problem(headers(**changes), payload, APP, guarded) is None


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize(
    ("payload", "changes", "problem"),
    [
        ([[1]], {}, "the body is a list of 1"),
        (5, {}, "the body is a int, not a list"),
        (None, {}, "the body is nothing"),
        (["a", {}, EMBED], {}, "args is a str"),
        ([[], [], EMBED], {}, "kwargs is a list"),
        ([[], {}, "x"], {}, "embed is a str"),
        ({"args": {}, "id": "x"}, {}, "args is a dict"),
        ({"args": [], "kwargs": [], "id": "x"}, {}, "kwargs is a list"),
        ({"three": 1, "keys": 2, "unpack": 3}, {}, "the body is a dict"),
        (GOOD, {"timelimit": [1]}, "timelimit is a list, not a pair"),
        (GOOD, {"timelimit": "ab"}, "timelimit is a str, not a pair"),
        (GOOD, {"timelimit": ["a", None]}, "timelimit has a str"),
        (GOOD, {"timelimit": [True, None]}, "timelimit has a bool"),
        (GOOD, {"timelimit": [None, math.nan]}, "timelimit is out of range"),
        (GOOD, {"timelimit": [-1, None]}, "timelimit is out of range"),
        (GOOD, {"timelimit": [2**40, None]}, "timelimit is out of range"),
        (GOOD, {"shadow": {"a": None}}, "shadow is a dict, not a text"),
        (GOOD, {"stamped_headers": 0.5}, "stamped_headers is a float, not a list"),
        (GOOD, {"stamped_headers": "tenant"}, "stamped_headers is a str, not a list"),
        (GOOD, {"stamped_headers": [["tenant"]]}, "stamped_headers holds a value that is not a text"),
        (GOOD, {"stamped_headers": ["tenant"], "stamps": 1}, "stamps is a int, not a mapping"),
        (GOOD, {"shadow": [1]}, "shadow is a list, not a text"),
        (GOOD, {"id": None}, "it has no id"),
        (GOOD, {"id": ""}, "it has no id"),
        (GOOD, {"eta": "0001-01-01T00:00:00+23:59"}, "eta is out of range"),
    ],
)
def test_what_celery_cannot_run_is_wrong(payload: Any, changes: dict[str, Any], problem: str, guarded: bool) -> None:
    assert (shape_problem(headers(**changes), payload, APP, guarded) or "").startswith(problem)


@pytest.mark.parametrize(
    ("payload", "changes", "problem"),
    [
        (GOOD, {"id": 5}, "id is a int"),
        (GOOD, {"retries": "1"}, "retries is a str"),
        (GOOD, {"retries": True}, "retries is a bool"),
        (GOOD, {"retries": -1}, "retries is out of range"),
        (GOOD, {"retries": 2**31}, "retries is out of range"),
        ([[], {}, {"id": "y"}], {}, "embed holds more"),
    ],
)
def test_a_guarded_task_needs_its_id_and_number(payload: Any, changes: dict[str, Any], problem: str) -> None:
    assert (shape_problem(headers(**changes), payload, APP, True) or "").startswith(problem)
    assert shape_problem(headers(**changes), payload, APP, False) is None
